// SPDX-License-Identifier: Apache-2.0

package topology

import (
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
)

// Family is an IP version.
type Family int

// The two IP versions.
const (
	IPv4 Family = 4
	IPv6 Family = 6
)

// FamilyOf returns the version of an address. A mapped IPv4 address is IPv6.
func FamilyOf(a netip.Addr) Family {
	if a.Is4() {
		return IPv4
	}
	return IPv6
}

// String returns "ipv4" or "ipv6".
func (f Family) String() string {
	return fmt.Sprintf("ipv%d", int(f))
}

// netlink returns the family's number in netlink requests.
func (f Family) netlink() int {
	if f == IPv4 {
		return netlink.FAMILY_V4
	}
	return netlink.FAMILY_V6
}

// ipNet turns a prefix, host bits kept, into the type that netlink takes.
func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{
		IP:   p.Addr().AsSlice(),
		Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen()),
	}
}

// prefixOf is the reverse of ipNet.
func prefixOf(n *net.IPNet) netip.Prefix {
	address, _ := netip.AddrFromSlice(n.IP)
	ones, _ := n.Mask.Size()
	return netip.PrefixFrom(address.Unmap(), ones)
}
