// SPDX-License-Identifier: Apache-2.0

package model

import (
	"net/netip"

	"replypath/bpf"
)

// refusals are the reasons for which a packet starts no flow; all that apply.
func (m *Model) refusals(p *packet, w way) []Event {
	var reasons []Event
	because := func(e Event, applies bool) {
		if applies {
			reasons = append(reasons, e)
		}
	}
	m.learn(p.to, w.ifindex)
	flags, own := m.Host.OwnAddresses[p.to]
	_, ownPeer := m.Host.OwnAddresses[p.from]
	because(bpf.DatapathEventEVENT_IGNORED_PROTOCOL, !m.Host.Protocols[p.protocol] || isDHCP(p))
	because(bpf.DatapathEventEVENT_IGNORED_NOT_OWN, !own && !m.Host.ScopeAll)
	because(bpf.DatapathEventEVENT_IGNORED_LOOPBACK,
		flags&bpf.DatapathOwnFlagsOWN_LOOPBACK_ONLY != 0 && !m.Host.LoopbackSymmetric)
	because(bpf.DatapathEventEVENT_IGNORED_SOURCE, ownPeer || extraordinary(p.from) || extraordinary(p.to))
	because(bpf.DatapathEventEVENT_IGNORED_EXCLUDED, m.excluded(p))
	because(bpf.DatapathEventEVENT_IGNORED_MAC, badMAC(w))
	because(bpf.DatapathEventEVENT_IGNORED_INTERFACE, !w.managed)
	return reasons
}

// learn enters an address that the device has by which a packet came in.
func (m *Model) learn(address netip.Addr, ifindex uint32) {
	if m.comes(address, ifindex) {
		m.Host.OwnAddresses[address] = bpf.DatapathOwnFlagsOWN_ADDRESS
	}
}

// comes says whether an address is the device's, which is not known yet.
func (m *Model) comes(address netip.Addr, ifindex uint32) bool {
	_, known := m.Host.OwnAddresses[address]
	id, _, managed := m.managed(ifindex)
	return !known && m.Host.ShowsLinks && managed && !m.Host.Gone[id] && m.Host.HasCome[Place{ifindex, address}]
}

// isStale says whether an address that has come was none of ours a moment ago, for who looks at this
// interface: only a SYN, or a packet without a hop left, has it looked at again.
func (m *Model) isStale(address netip.Addr, w way) bool {
	_, own := m.Host.OwnAddresses[address]
	return (own || m.comes(address, w.ifindex)) && m.Foreign[Place{w.ifindex, address}]
}

// isDHCP: its packets have a way of their own, before there are addresses.
func isDHCP(p *packet) bool {
	return p.protocol == protoUDP && (p.toPort == 67 || p.toPort == 68 || p.toPort == 546 || p.toPort == 547)
}

var extraordinaryPrefixes = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/32"),
	netip.MustParsePrefix("127.0.0.0/8"),
	netip.MustParsePrefix("169.254.0.0/16"),
	netip.MustParsePrefix("224.0.0.0/4"),
	netip.MustParsePrefix("255.255.255.255/32"),
	netip.MustParsePrefix("::/128"),
	netip.MustParsePrefix("::1/128"),
	netip.MustParsePrefix("fe80::/10"),
	netip.MustParsePrefix("ff00::/8"),
}

// extraordinary addresses are no ordinary unicast ones: unspecified, loopback,
// link-local, multicast, broadcast.
func extraordinary(a netip.Addr) bool {
	for _, prefix := range extraordinaryPrefixes {
		if prefix.Contains(a) {
			return true
		}
	}
	return false
}

func (m *Model) excluded(p *packet) bool {
	within := func(prefix netip.Prefix, a netip.Addr) bool { return !prefix.IsValid() || prefix.Contains(a) }
	for _, rule := range m.Host.Exclusions {
		if within(rule.Peer, p.from) && within(rule.Self, p.to) &&
			(rule.Protocol == 0 || rule.Protocol == p.protocol) &&
			(rule.SelfPort == 0 || rule.SelfPort == p.toPort) {
			return true
		}
	}
	return false
}

// badMAC: nobody can be answered at a group's address or at none. Frames
// without a header come from none.
func badMAC(w way) bool {
	if w.record.Flags&interfaceBare != 0 {
		return false
	}
	return w.mac[0]&1 != 0 || w.mac == MAC{}
}
