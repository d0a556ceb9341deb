// SPDX-License-Identifier: Apache-2.0

package topology

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"

	"github.com/gopacket/gopacket/layers"
	"github.com/vishvananda/netlink"
)

// Filter tells which frames are meant.
type Filter func(*Frame) bool

// Any matches every frame.
func Any(*Frame) bool { return true }

// All matches what every filter matches.
func All(filters ...Filter) Filter {
	return func(f *Frame) bool {
		for _, match := range filters {
			if !match(f) {
				return false
			}
		}
		return true
	}
}

// OneOf matches what at least one filter matches.
func OneOf(filters ...Filter) Filter {
	return func(f *Frame) bool {
		for _, match := range filters {
			if match(f) {
				return true
			}
		}
		return false
	}
}

// Not matches what the filter does not match.
func Not(match Filter) Filter {
	return func(f *Frame) bool { return !match(f) }
}

// Going matches frames of one direction.
func Going(d Direction) Filter {
	return func(f *Frame) bool { return f.Direction == d }
}

// Protocol matches IP packets of a protocol.
func Protocol(p layers.IPProtocol) Filter {
	return func(f *Frame) bool { return f.Source.IsValid() && f.Protocol == p }
}

// TCP matches TCP segments of both families.
func TCP(f *Frame) bool { return Protocol(layers.IPProtocolTCP)(f) }

// UDP matches UDP datagrams of both families.
func UDP(f *Frame) bool { return Protocol(layers.IPProtocolUDP)(f) }

// EchoRequest matches the question of a ping, ICMP and ICMPv6.
func EchoRequest(f *Frame) bool {
	return isICMP(f, layers.ICMPv4TypeEchoRequest, layers.ICMPv6TypeEchoRequest)
}

// EchoReply matches the answer to a ping, ICMP and ICMPv6.
func EchoReply(f *Frame) bool {
	return isICMP(f, layers.ICMPv4TypeEchoReply, layers.ICMPv6TypeEchoReply)
}

func isICMP(f *Frame, v4, v6 uint8) bool {
	switch f.Protocol {
	case layers.IPProtocolICMPv4:
		return f.Source.Is4() && f.ICMPType == v4
	case layers.IPProtocolICMPv6:
		return f.Source.Is6() && f.ICMPType == v6
	default:
		return false
	}
}

// From matches packets from an address.
func From(a netip.Addr) Filter {
	return func(f *Frame) bool { return f.Source == a }
}

// To matches packets to an address.
func To(a netip.Addr) Filter {
	return func(f *Frame) bool { return f.Destination == a }
}

// Between matches packets from one address to the other, either way.
func Between(a, b netip.Addr) Filter {
	return OneOf(All(From(a), To(b)), All(From(b), To(a)))
}

// FromPort matches packets from a TCP, UDP or SCTP port.
func FromPort(port uint16) Filter {
	return func(f *Frame) bool { return f.SourcePort == port }
}

// ToPort matches packets to a TCP, UDP or SCTP port.
func ToPort(port uint16) Filter {
	return func(f *Frame) bool { return f.DestinationPort == port }
}

// FromMAC matches frames from a hardware address.
func FromMAC(mac net.HardwareAddr) Filter {
	return func(f *Frame) bool { return bytes.Equal(f.SourceMAC, mac) }
}

// ToMAC matches frames to a hardware address.
func ToMAC(mac net.HardwareAddr) Filter {
	return func(f *Frame) bool { return bytes.Equal(f.DestinationMAC, mac) }
}

// Flags matches TCP segments of whose bits in mask exactly those in set are set: Flags(SYN|ACK, SYN) is the first
// segment of a connection.
func Flags(mask, set TCPFlags) Filter {
	return func(f *Frame) bool { return TCP(f) && f.TCPFlags&mask == set }
}

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
