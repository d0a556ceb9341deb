// SPDX-License-Identifier: Apache-2.0

package model

import (
	"net/netip"
	"slices"

	"replypath/bpf"
)

// refusals are the reasons for which a packet starts no flow; all that apply.
func (m *Model) refusals(p *packet, w path) []Event {
	var reasons []Event
	because := func(e Event, applies bool) {
		if applies {
			reasons = append(reasons, e)
		}
	}
	_, ownPeer := m.Host.OwnAddresses[p.from]
	because(bpf.DatapathEventEVENT_IGNORED_PROTOCOL, !m.Host.Protocols[p.protocol])
	foreign := m.isForeign(p, w.ifindex)
	ofLoopback := m.isRoutedAnyway(p.to) && (p.protocol != protoUDP || m.Host.Repair == bpf.DatapathSourceRepairREPAIR_OFF)
	because(bpf.DatapathEventEVENT_IGNORED_NOT_OWN, foreign)
	because(bpf.DatapathEventEVENT_IGNORED_LOOPBACK, ofLoopback)
	because(bpf.DatapathEventEVENT_IGNORED_TUNNEL, !foreign && !ofLoopback && m.isOfOthers(p, w))
	because(bpf.DatapathEventEVENT_IGNORED_SOURCE, ownPeer || extraordinary(p.from) || extraordinary(p.to))
	because(bpf.DatapathEventEVENT_IGNORED_EXCLUDED, m.excluded(p))
	because(bpf.DatapathEventEVENT_IGNORED_MAC, badMAC(w))
	because(bpf.DatapathEventEVENT_IGNORED_INTERFACE, !w.managed)
	return reasons
}

// isRoutedAnyway says whether replies from an own address go as routed, as only lo or a dummy device has it. Datagrams have
// flows all the same, for the source of the reply.
func (m *Model) isRoutedAnyway(own netip.Addr) bool {
	flags, _ := m.serves(own)
	return flags&bpf.DatapathOwnFlagsOWN_LOOPBACK_ONLY != 0 && !m.Host.LoopbackSymmetric
}

// serves says whether a flow may be to an address, and what it is to the host.
func (m *Model) serves(address netip.Addr) (flags bpf.DatapathOwnFlags, served bool) {
	if flags, own := m.Host.OwnAddresses[address]; own {
		return flags, true
	}
	for prefix, flags := range m.Host.Served {
		if prefix.Contains(address) {
			return flags, true
		}
	}
	return 0, false
}

// takes is what starts flows by an interface; of what the host itself sends, any may bring the answer.
func (m *Model) takes(ifindex uint32) (takes bpf.DatapathTakes) {
	for _, record := range m.Host.Interfaces {
		if record.Ifindex == ifindex {
			return bpf.DatapathTakes(record.Takes)
		}
		if ifindex == 0 {
			takes |= bpf.DatapathTakes(record.Takes) &^ bpf.DatapathTakesTAKES_ITS_OWN_ONLY
		}
	}
	return takes
}

// isOfOthers says whether a packet came by a tunnel that nobody named, for an address that this does not have.
func (m *Model) isOfOthers(p *packet, w path) bool {
	return m.takes(w.ifindex)&bpf.DatapathTakesTAKES_ITS_OWN_ONLY != 0 && m.ownerOf(p.to) != w.id
}

// ownerOf is the interface that has an address alone, 0 for none.
func (m *Model) ownerOf(own netip.Addr) uint16 {
	return uint16(m.Host.OwnAddresses[own] >> bpf.DatapathOwnFlagsOWN_INTERFACE_SHIFT)
}

// countAtTunnel counts what such a tunnel brings.
func (m *Model) countAtTunnel(p *packet, w path) {
	pair := Pair{From: m.ownerOf(p.to), To: w.id, Family: p.family, Protocol: uint8(class(p.protocol))}
	m.count(pair, bpf.DatapathOutcomeOUTCOME_UNNAMED_TUNNEL, Count{Packets: 1, Bytes: w.bytes})
}

// carriers are the protocols of tunnels and IPsec: what others may ask the host by that is not recorded, if nobody lists it.
var carriers = []uint8{4, 41, 47, 50, 51, 108, 115}

// countUnrecorded counts such a request for the host, by the number of its protocol.
func (m *Model) countUnrecorded(p *packet, w path) {
	if _, served := m.serves(p.to); served && slices.Contains(carriers, p.protocol) {
		pair := Pair{From: w.id, To: w.id, Family: p.family, Protocol: p.protocol}
		m.count(pair, bpf.DatapathOutcomeOUTCOME_UNRECORDED, Count{Packets: 1, Bytes: w.bytes})
	}
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
func badMAC(w path) bool {
	if w.record.Flags&interfaceBare != 0 {
		return false
	}
	return w.mac[0]&1 != 0 || w.mac == MAC{}
}
