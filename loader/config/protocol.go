// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
)

// IP protocol numbers that have a name of their own in output.
const (
	ProtocolICMP   = 1
	ProtocolTCP    = 6
	ProtocolUDP    = 17
	ProtocolICMPv6 = 58
	ProtocolSCTP   = 132
)

// protocolNumbers are the names that a configuration may use, from
// https://www.iana.org/assignments/protocol-numbers and /etc/protocols.
var protocolNumbers = map[string]uint8{
	"ah":        51,
	"dccp":      33,
	"eigrp":     88,
	"esp":       50,
	"etherip":   97,
	"gre":       47,
	"icmp":      ProtocolICMP,
	"icmpv6":    ProtocolICMPv6,
	"igmp":      2,
	"ipcomp":    108,
	"ipip":      4,
	"ipv6":      41,
	"ipv6-icmp": ProtocolICMPv6,
	"l2tp":      115,
	"ospf":      89,
	"pim":       103,
	"sctp":      ProtocolSCTP,
	"tcp":       ProtocolTCP,
	"udp":       ProtocolUDP,
	"udplite":   136,
	"vrrp":      112,
}

// protocolValues is what an error message offers.
const protocolValues = "tcp, udp, icmp, icmpv6, sctp, another name such as esp, gre, ipip or vrrp, or a number up to 255"

// Protocol returns the IP protocol number of a name such as "tcp" or of a
// decimal number.
func Protocol(name string) (uint8, error) {
	if number, ok := protocolNumbers[name]; ok {
		return number, nil
	}
	if number, err := strconv.ParseUint(name, 10, 8); err == nil {
		return uint8(number), nil
	}
	return 0, fmt.Errorf("%s is not a protocol: use one of %s", quote(name), protocolValues)
}

// ProtocolWord returns what a configuration may call a protocol: the first of its names, or its number.
func ProtocolWord(number uint8) string {
	for _, name := range slices.Sorted(maps.Keys(protocolNumbers)) {
		if protocolNumbers[name] == number {
			return name
		}
	}
	return strconv.Itoa(int(number))
}

var protocolNames = map[uint8]string{
	ProtocolTCP: "tcp", ProtocolUDP: "udp", ProtocolICMP: "icmp", ProtocolICMPv6: "icmpv6", ProtocolSCTP: "sctp",
}

// ProtocolName returns how output names a protocol: tcp, udp, icmp, icmpv6,
// sctp, or the number of any other.
func ProtocolName(number uint8) string {
	if name, named := protocolNames[number]; named {
		return name
	}
	return strconv.Itoa(int(number))
}

// HasPorts tells whether the datapath reads ports from a protocol's header.
func HasPorts(number uint8) bool {
	return number == ProtocolTCP || number == ProtocolUDP || number == ProtocolSCTP
}

// extensionHeaders are the numbers that stand in front of an IPv6 payload and are skipped on the way to its
// protocol: hop-by-hop, routing, fragment, destination options (RFC 8200).
var extensionHeaders = []uint8{0, 43, 44, 60}
