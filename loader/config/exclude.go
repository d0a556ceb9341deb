// SPDX-License-Identifier: Apache-2.0

package config

import (
	"cmp"
	"fmt"
	"net/netip"
)

// parsePeer reads an exclusion that is a network alone: the peer's.
func parsePeer(text string) (Exclusion, error) {
	peer, err := parsePrefix(text)
	return Exclusion{Peer: peer}, err
}

// check refuses what would exclude everything or nothing: both are slips.
func (e *Exclusion) check() error {
	switch {
	case *e == Exclusion{}:
		return fmt.Errorf("excludes everything: name at least one of peer, self, protocol, self_port")
	case e.SelfPort != 0 && e.Protocol != 0 && !HasPorts(e.Protocol):
		return fmt.Errorf("self_port matches nothing, as %s has no ports: use tcp, udp or sctp, or leave one of the two out",
			ProtocolName(e.Protocol))
	case e.Peer.IsValid() && e.Self.IsValid() && e.Peer.Addr().Is4() != e.Self.Addr().Is4():
		return fmt.Errorf("matches nothing, as peer %s and self %s are of different families", e.Peer, e.Self)
	case e.otherFamily(e.Peer), e.otherFamily(e.Self):
		return fmt.Errorf("matches nothing, as %s does not go with the family of the address", ProtocolName(e.Protocol))
	}
	return nil
}

// otherFamily tells ICMP with an IPv6 network and ICMPv6 with an IPv4 one.
func (e *Exclusion) otherFamily(network netip.Prefix) bool {
	if !network.IsValid() {
		return false
	}
	return e.Protocol == ProtocolICMP && network.Addr().Is6() || e.Protocol == ProtocolICMPv6 && network.Addr().Is4()
}

// Warnings names the exclusions that leave nothing of an address family, one line each.
func (c *Config) Warnings() (warnings []string) {
	for i, e := range c.Exclude {
		network := cmp.Or(e.Peer, e.Self)
		if e.Protocol == 0 && e.SelfPort == 0 && network.Bits() == 0 && e.Self.Bits() <= 0 {
			family := map[bool]string{true: "ipv4", false: "ipv6"}[network.Addr().Is4()]
			warnings = append(warnings, fmt.Sprintf("exclude[%d]: excludes every %s flow", i, family))
		}
	}
	return warnings
}
