// SPDX-License-Identifier: Apache-2.0

package model

import (
	"bytes"
	"net/netip"
	"slices"

	"replypath/bpf"
)

const (
	tableOriginated  = bpf.DatapathTableTABLE_ORIGINATED
	tableRelated     = bpf.DatapathTableTABLE_RELATED
	interfaceStrong  = uint8(bpf.DatapathInterfaceFlagsINTERFACE_STRONG)
	originated       = bpf.DatapathOutcomeOUTCOME_ORIGINATED
	ownInterfaceBits = bpf.DatapathOwnFlagsOWN_INTERFACE_SHIFT
)

// sourceInterface is the managed interface that alone has an address, while its device is there.
func (m *Model) sourceInterface(a netip.Addr) (id uint16, record Interface, ok bool) {
	id = uint16(m.Host.OwnAddresses[a] >> ownInterfaceBits)
	record, ok = m.Host.Interfaces[id]
	return id, record, ok && !m.Host.Gone[id]
}

// originates says whether the host originates a packet by another interface than that of its source, which it tells.
func (m *Model) originates(p *packet, frame Frame) (id uint16, record Interface, ok bool) {
	id, record, ok = m.sourceInterface(p.from)
	ok = ok && record.Ifindex != frame.Ifindex && (record.Lower != frame.Ifindex || frame.Ifindex == 0) &&
		m.isHostsFrame(p, frame) && m.isHeeded(p)
	return id, record, ok
}

// originate decides about a packet of no flow, if the host originates it by another interface than that of its source.
// A later fragment goes as the first one did, of which this was the outcome.
func (m *Model) originate(p *packet, t Tuple, frame Frame, first bpf.DatapathOutcome) (v Verdict, decided bool) {
	id, record, ok := m.originates(p, frame)
	if !ok {
		return Verdict{}, false
	}
	kept := m.Originated[EndsOf(t)]
	if kept.To == 0 {
		kept.Created = m.Now
	}
	from, _, _ := m.managed(frame.Ifindex)
	kept.Seen, kept.From, kept.To = m.Now, from, id
	m.lose(frame)
	table, f := tableOriginated, Flow{Tuple: t, Ifindex: record.Ifindex, Interface: id, SizeTold: kept.SizeTold}
	mac, gateway, isChosen, found := m.sourceNextHop(p.from, p.to, record)
	f.Gateway = gateway
	isStrong := record.Flags&interfaceStrong != 0
	isServed := isStrong
	if by, related := m.relatedPath(kept, t); !(isStrong && isChosen) && (isStrong || m.Host.Related) && related && by.Interface == id {
		table, f.Ifindex, f.Gateway, isServed = tableRelated, by.Ifindex, by.Gateway, true
		mac, found = m.relatedNextHop(t, by, record)
	}
	reasons := reasons(
		reason{bpf.DatapathOutcomeOUTCOME_WEAK_HOST, !isServed},
		reason{first, first != bpf.DatapathOutcomeOUTCOME_CORRECTED},
		reason{bpf.DatapathOutcomeOUTCOME_LINK_DOWN, !m.isUsable(&f)},
		reason{bpf.DatapathOutcomeOUTCOME_OBSERVE, m.observes(record)},
		reason{bpf.DatapathOutcomeOUTCOME_NO_NEXT_HOP, !found},
		reason{bpf.DatapathOutcomeOUTCOME_MTU, size(p, frame) > record.Mtu},
	)
	pair := Pair{From: from, To: id, Family: p.family, Protocol: uint8(class(p.protocol))}
	outcome := append(reasons, bpf.DatapathOutcomeOUTCOME_CORRECTED)[0]
	counted, bit := &kept.RoutedOf, uint8(1)<<pair.Protocol
	if len(reasons) == 0 {
		counted = &kept.MovedOf
	}
	isFirst := *counted&bit == 0
	*counted |= bit
	kept.Outcome = uint8(outcome)
	m.decided(table, t, p, outcome)
	if len(reasons) == 0 {
		packets, _ := onWire(frame)
		kept.Moved += packets
		m.Originated[EndsOf(t)] = kept
		waits := record.Flags&interfaceBare == 0 && mac == MAC{}
		m.handover = &handover{table: table, ifindex: record.Ifindex, pair: pair, packets: packets, waits: waits, first: isFirst}
		return Verdict{Redirect: record.Ifindex, Bytes: m.movedBySource(p, frame, mac, record)}, true
	}
	m.countOriginated(pair, outcome, frame, isFirst)
	var told Verdict
	if slices.Equal(reasons, []bpf.DatapathOutcome{bpf.DatapathOutcomeOUTCOME_MTU}) {
		told = m.tell(&f, p, frame, record)
		kept.SizeTold = f.SizeTold
	}
	m.Originated[EndsOf(t)] = kept
	return told, true
}

// isHostsFrame says whether the host itself sends a frame, and no guest on a device above the interface.
func (m *Model) isHostsFrame(p *packet, frame Frame) bool {
	_, record, managed := m.managed(frame.Ifindex)
	return !managed || frame.NoHeader || p.source == record.Mac
}

// isHeeded says whether a packet is of those whose source is heeded.
func (m *Model) isHeeded(p *packet) bool {
	q := p.turned()
	_, ownPeer := m.Host.OwnAddresses[p.to]
	return m.Host.Protocols[p.protocol] && p.destination[0]&1 == 0 &&
		!ownPeer && !extraordinary(p.from) && !extraordinary(p.to) && !m.excluded(q)
}

// sourceNextHop is where a packet goes by the interface of its source, if one is known: to the peer itself, whose MAC the
// kernel finds, or to a gateway, if that can be used. Where routes do not tell which, the source does.
func (m *Model) sourceNextHop(source, peer netip.Addr, record Interface) (mac MAC, gateway uint16, known, found bool) {
	w := path{ifindex: record.Ifindex, record: record}
	if record.Flags&interfaceBare != 0 || m.onLink(peer, w) {
		return MAC{}, 0, true, true
	}
	first := record.FirstGateway4
	if peer.Is6() {
		first = record.FirstGateway6
	}
	gateway, isServed := m.routed(peer, w, first)
	if !isServed {
		return MAC{}, 0, false, false
	}
	if gateway == 0 {
		gateway = first
		if its, known := m.Host.Sources[source]; known {
			gateway = its
		}
	}
	mac, found = m.usable(gateway, record.Ifindex)
	return mac, gateway, gateway != 0, found
}

// movedBySource is the frame as it is redirected. Of one that goes to its peer the kernel writes the MACs afterwards.
func (m *Model) movedBySource(p *packet, frame Frame, mac MAC, record Interface) []byte {
	moved := bytes.Clone(frame.Bytes)
	isBare := record.Flags&interfaceBare != 0
	if !isBare && mac != (MAC{}) {
		moved = readdressed(frame, mac, record.Mac)
	}
	if p.has(FlagSYN) {
		m.announce(moved, p, record)
	}
	return withHeader(moved, p, frame, mac, record)
}

// countOriginated counts what happened to a packet, and to its addresses if it is the first.
func (m *Model) countOriginated(pair Pair, outcome bpf.DatapathOutcome, frame Frame, isFirst bool) {
	m.countPacket(pair, outcome|originated, frame)
	if isFirst {
		m.count(pair, outcome|originated, Count{Flows: 1})
	}
}
