package main

import (
	"fmt"
	"net/netip"

	"github.com/spf13/cobra"

	"replypath/loader/config"
)

// addFilter gives a command the flags that choose flows.
func (f *flowCommand) addFilter(c *cobra.Command) {
	flags := c.Flags()
	flags.Var(newParsed(&f.filter.Peer, "cidr", "", network), "peer", "only flows of peers in this network or with this address")
	flags.Var(newParsed(&f.filter.Interface, "name", "", interfaceName), "interface", "only flows of this interface")
	flags.Var(newParsed(&f.filter.Protocol, "protocol", "", protocol), "protocol", "only this protocol: tcp, udp, icmp, icmpv6, sctp or a number")
	flags.BoolVar(&f.filter.Asymmetric, "asymmetric", false, "only flows that the kernel would have sent another way")
	flags.Var(newParsed(&f.filter.Limit, "number", "", positive), "limit", "no more than so many")
	complete(c, "interface", interfaceNames)
	complete(c, "protocol", protocolNames)
}

// network reads a network, of which bits beyond the prefix length do not count,
// or an address.
func network(text string) (netip.Prefix, error) {
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
