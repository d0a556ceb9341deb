// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"fmt"
	"net/netip"
	"strconv"

	"replypath/loader/config"
)

// Positive reads a whole number of at least 1.
func Positive(text string) (int, error) {
	number, err := strconv.ParseUint(text, 10, 31)
	if err != nil || number == 0 {
		return 0, fmt.Errorf("%q is not a whole number from 1", text)
	}
	return int(number), nil
}

func interfaceName(text string) (string, error) { return text, config.CheckInterfaceName(text) }

// Network reads a network, of which bits beyond the prefix length do not count,
// or an address.
func Network(text string) (netip.Prefix, error) {
	if address, err := netip.ParseAddr(text); err == nil && address.Zone() == "" {
		address = address.Unmap()
		return netip.PrefixFrom(address, address.BitLen()), nil
	}
	prefix, err := netip.ParsePrefix(text)
	if err != nil || prefix.Addr().Is4In6() {
		return netip.Prefix{}, fmt.Errorf("%q is not a network or an address such as 10.1.0.0/24 or 2001:db8::1", text)
	}
	return prefix.Masked(), nil
}

func protocol(text string) (*uint8, error) {
	number, err := config.Protocol(text)
	return &number, err
}

// Address reads an address.
func Address(text string) (netip.Addr, error) {
	address, err := netip.ParseAddr(text)
	if err != nil || address.Zone() != "" {
		return netip.Addr{}, fmt.Errorf("%q is not an address such as 10.0.0.1 or 2001:db8::1", text)
	}
	return address.Unmap(), nil
}

// Endpoint reads an address with or without a port.
func Endpoint(text string) (netip.AddrPort, error) {
	if address, err := netip.ParseAddr(text); err == nil && address.Zone() == "" {
		return netip.AddrPortFrom(address.Unmap(), 0), nil
	}
	both, err := netip.ParseAddrPort(text)
	if err != nil || both.Addr().Zone() != "" {
		return netip.AddrPort{}, fmt.Errorf("%q is not an address with or without a port, such as 10.0.0.1:443 or [2001:db8::1]:443", text)
	}
	return netip.AddrPortFrom(both.Addr().Unmap(), both.Port()), nil
}
