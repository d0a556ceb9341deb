// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"
	"net/netip"
	"strings"
)

// parseAddress reads an IP address. IPv4 in IPv6 clothes is refused: no packet
// on the wire carries it, so it would match nothing.
func parseAddress(text string) (netip.Addr, error) {
	address, err := netip.ParseAddr(text)
	switch {
	case err != nil && strings.Contains(text, "/"):
		return netip.Addr{}, fmt.Errorf("%s is not an ip address: write it without the prefix length", quote(text))
	case err != nil:
		return netip.Addr{}, fmt.Errorf("%s is not an ip address such as 10.4.0.1 or 2001:db8::1", quote(text))
	case address.Is4In6():
		return netip.Addr{}, fmt.Errorf("%q is an ipv4-mapped address: write %s", text, address.Unmap())
	case address.Zone() != "":
		return netip.Addr{}, fmt.Errorf("%s has a zone: write %s", quote(text), address.WithZone(""))
	}
	return address, nil
}

// parsePrefix reads a network in CIDR notation, or an address as the network
// of its own.
func parsePrefix(text string) (netip.Prefix, error) {
	if !strings.Contains(text, "/") {
		address, err := parseAddress(text)
		if err != nil {
			return netip.Prefix{}, err
		}
		return netip.PrefixFrom(address, address.BitLen()), nil
	}
	network, err := netip.ParsePrefix(text)
	switch {
	case err != nil:
		return netip.Prefix{}, fmt.Errorf("%s is not a network such as 192.0.2.0/24 or 2001:db8::/32", quote(text))
	case network.Addr().Is4In6():
		return netip.Prefix{}, fmt.Errorf("%q is an ipv4-mapped network: write %s", text, unmap(network))
	case network != network.Masked():
		return netip.Prefix{}, fmt.Errorf("%q has bits beyond its prefix length: write %s or %s",
			text, network.Masked(), netip.PrefixFrom(network.Addr(), network.Addr().BitLen()))
	}
	return network, nil
}

// unmap returns the IPv4 network that an IPv4-mapped one stands for.
func unmap(network netip.Prefix) netip.Prefix {
	const mapped = 96 // bits before the IPv4 address (RFC 4291, 2.5.5.2)
	return netip.PrefixFrom(network.Addr().Unmap(), max(network.Bits()-mapped, 0)).Masked()
}

// parseGateway reads an address that a neighbour can have.
func parseGateway(text string) (netip.Addr, error) {
	address, err := parseAddress(text)
	if err != nil {
		return address, err
	}
	if kind := notUnicast(address); kind != "" {
		return address, fmt.Errorf("%q is %s: a gateway has a unicast address such as 10.4.0.1 or fe80::1", text, kind)
	}
	return address, nil
}

// parseServed reads a network of addresses that a host can serve.
func parseServed(text string) (netip.Prefix, error) {
	network, err := parsePrefix(text)
	if err != nil {
		return network, err
	}
	widest, family := widestIPv4, "ipv4"
	if network.Addr().Is6() {
		widest, family = widestIPv6, "ipv6"
	}
	kind := notUnicast(network.Addr())
	if network.Addr().IsLinkLocalUnicast() {
		kind = "a link-local address"
	}
	switch {
	case network.Bits() < widest:
		return network, fmt.Errorf("%s is too wide, a network of %s has at least /%d: name what this host serves, or use scope: all",
			quote(text), family, widest)
	case kind != "":
		return network, fmt.Errorf("%s is %s: list unicast addresses such as 198.51.100.7 or 2001:db8:9::5", quote(text), kind)
	}
	return network, nil
}

// notUnicast says what an address is that no neighbour can have, "" for one
// that a neighbour can have.
func notUnicast(address netip.Addr) string {
	switch {
	case address.IsUnspecified():
		return "the unspecified address"
	case address.IsLoopback():
		return "a loopback address"
	case address.IsMulticast():
		return "a multicast address"
	case address == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return "the broadcast address"
	}
	return ""
}
