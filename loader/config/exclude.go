// SPDX-License-Identifier: Apache-2.0

package config

import (
	"cmp"
	"fmt"
	"net/netip"

	"go.yaml.in/yaml/v3"
)

const wantExclusions = "a list of networks and maps such as [192.0.2.0/24, {protocol: udp, self_port: 51820}]"

func (p *Policy) setExclude(v value) error {
	p.Exclude = []Exclusion{}
	count := 0
	return v.list(wantExclusions, func(item value) error {
		if count++; count == MaxExclusions+1 {
			return item.errorf("is one entry too many, at most %d are possible: use larger networks", MaxExclusions)
		} else if count > MaxExclusions {
			return nil
		}
		var exclusion Exclusion
		if err := exclusion.setItem(item); err != nil {
			return err
		}
		p.Exclude = append(p.Exclude, exclusion)
		return nil
	})
}

// setItem reads a peer's network, or a map of what has to match together.
func (e *Exclusion) setItem(v value) error {
	if v.node.Kind == yaml.ScalarNode && !v.null() {
		return prefix(&e.Peer)(v)
	}
	if err := v.object("a network or a map", e.fields()); err != nil {
		return err
	}
	return e.check(v)
}

func (e *Exclusion) fields() []field {
	return []field{
		{"peer", prefix(&e.Peer)},
		{"self", prefix(&e.Self)},
		{"protocol", e.setProtocol},
		{"self_port", e.setSelfPort},
	}
}

func (e *Exclusion) setProtocol(v value) (err error) {
	e.Protocol, err = v.protocol()
	return err
}

func (e *Exclusion) setSelfPort(v value) error {
	number, err := v.integer(1, 65535)
	e.SelfPort = uint16(number)
	return err
}

// check refuses what would exclude everything or nothing: both are slips.
func (e *Exclusion) check(v value) error {
	switch {
	case *e == Exclusion{}:
		return v.errorf("excludes everything: name at least one of peer, self, protocol, self_port")
	case e.SelfPort != 0 && e.Protocol != 0 && !HasPorts(e.Protocol):
		return v.errorf("self_port matches nothing, as %s has no ports: use tcp, udp or sctp, or leave one of the two out",
			ProtocolName(e.Protocol))
	case e.Peer.IsValid() && e.Self.IsValid() && e.Peer.Addr().Is4() != e.Self.Addr().Is4():
		return v.errorf("matches nothing, as peer %s and self %s are of different families", e.Peer, e.Self)
	case e.otherFamily(e.Peer), e.otherFamily(e.Self):
		return v.errorf("matches nothing, as %s does not go with the family of the address", ProtocolName(e.Protocol))
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
