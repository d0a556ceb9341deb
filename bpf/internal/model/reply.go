// SPDX-License-Identifier: Apache-2.0

package model

import (
	"bytes"
	"slices"

	"replypath/bpf"
)

const (
	interfaceBare   = uint8(bpf.DatapathInterfaceFlagsINTERFACE_NO_HEADER)
	interfaceStrict = uint8(bpf.DatapathInterfaceFlagsINTERFACE_STRICT)
)

// reply decides about a packet that belongs to a flow of a table.
func (m *Model) reply(table Table, t Tuple, p *packet, frame Frame) Verdict {
	f := m.table(table)[t]
	m.replied = true
	if _, _, leadsOut := m.managed(frame.Ifindex); leadsOut && f.Flags&flagAsRouted != 0 {
		return Verdict{}
	}
	if f.Ifindex == frame.Ifindex {
		if f.Flags&(flagEnforceMAC|flagLastHop) != 0 && !frame.NoHeader { // else there is nothing to decide
			m.decided(table, t, p, bpf.DatapathOutcomeOUTCOME_CORRECTED)
		}
		return m.readdress(table, t, p, frame)
	}
	pair := m.pair(f, p, frame)
	m.lose(frame)
	m.asymmetric(table, t, pair)
	record := m.Host.Interfaces[f.Interface]
	mac, found := m.nextHop(f, record)
	found = found || record.Flags&interfaceBare != 0
	reasons := reasons(
		reason{bpf.DatapathOutcomeOUTCOME_LINK_DOWN, !m.isUsable(&f)},
		reason{bpf.DatapathOutcomeOUTCOME_OBSERVE, m.observes(record)},
		reason{bpf.DatapathOutcomeOUTCOME_NO_NEXT_HOP, !found},
		reason{bpf.DatapathOutcomeOUTCOME_MTU, size(p, frame) > record.Mtu},
	)
	if len(reasons) > 0 { // of which the first counts
		m.countPacket(pair, reasons[0], frame)
		m.astray(table, t)
		m.decided(table, t, p, reasons[0])
		if reasons[0] != bpf.DatapathOutcomeOUTCOME_MTU {
			return Verdict{}
		}
		f = m.table(table)[t]
		told := m.tell(&f, p, frame, record)
		m.table(table)[t] = f
		return told
	}
	m.decided(table, t, p, bpf.DatapathOutcomeOUTCOME_CORRECTED)
	packets, _ := onWire(frame)
	m.handover = &handover{table: table, tuple: t, ifindex: f.Ifindex, pair: pair, packets: packets}
	moved := bytes.Clone(frame.Bytes)
	if record.Flags&interfaceBare == 0 {
		moved = readdressed(frame, mac, record.Mac)
	}
	if p.has(FlagSYN | FlagACK) {
		m.announce(moved, p, record)
	}
	return Verdict{Redirect: f.Ifindex, Bytes: withHeader(moved, p, frame, mac, record)}
}

// withHeader puts an Ethernet header before a packet that has none, if the interface's frames have one.
func withHeader(moved []byte, p *packet, frame Frame, mac MAC, record Interface) []byte {
	if !frame.NoHeader || record.Flags&interfaceBare != 0 {
		return moved
	}
	kind := map[uint8][]byte{4: {0x08, 0x00}, 6: {0x86, 0xdd}}[p.family]
	return slices.Concat(mac[:], record.Mac[:], kind, moved)
}

// lose counts the packet that was moved before this one, if it never came to its target.
func (m *Model) lose(frame Frame) {
	h := m.handover
	m.handover = nil
	if h == nil || h.waits {
		return
	}
	outcome := bpf.DatapathOutcomeOUTCOME_LOST_LINK_DOWN
	if m.isUsable(&Flow{Interface: h.pair.To, Ifindex: h.ifindex}) {
		outcome = bpf.DatapathOutcomeOUTCOME_LOST
	}
	_, bytes := onWire(frame) // nobody asks for its own
	m.count(h.pair, outcome, Count{Packets: h.packets, Bytes: bytes})
}

// isUsable says whether a flow's interface is still there, and its link up.
func (m *Model) isUsable(f *Flow) bool {
	record, ok := m.Host.Interfaces[f.Interface]
	if !ok || record.Ifindex != f.Ifindex || m.Host.Gone[f.Interface] {
		return false
	}
	if m.Host.ShowsLinks {
		return !m.Host.Down[f.Interface]
	}
	return record.Flags&uint8(bpf.DatapathInterfaceFlagsINTERFACE_UP) != 0
}

// readdressed is a frame with other MAC addresses.
func readdressed(frame Frame, to, from MAC) []byte {
	moved := bytes.Clone(frame.Bytes)
	if frame.NoHeader {
		return moved
	}
	copy(moved, to[:])
	copy(moved[6:], from[:])
	return moved
}

// readdress decides about a packet that leaves by its flow's interface anyway.
func (m *Model) readdress(table Table, t Tuple, p *packet, frame Frame) Verdict {
	f := m.table(table)[t]
	if f.Flags&(flagEnforceMAC|flagLastHop) == 0 || frame.NoHeader {
		return Verdict{}
	}
	record := m.Host.Interfaces[f.Interface]
	pair := m.pair(f, p, frame)
	mac, found := m.nextHop(f, record)
	switch {
	case record.Ifindex != f.Ifindex:
		m.countPacket(pair, bpf.DatapathOutcomeOUTCOME_LINK_DOWN, frame)
		m.astray(table, t)
		return Verdict{}
	case !found:
		m.countPacket(pair, bpf.DatapathOutcomeOUTCOME_NO_NEXT_HOP, frame)
		m.astray(table, t)
		return Verdict{}
	case mac == p.destination:
		return Verdict{}
	}
	m.asymmetric(table, t, pair)
	if m.observes(record) {
		m.countPacket(pair, bpf.DatapathOutcomeOUTCOME_OBSERVE, frame)
		m.astray(table, t)
		return Verdict{}
	}
	m.corrected(table, t, pair, frame)
	return Verdict{Bytes: readdressed(frame, mac, record.Mac)}
}

// astray: a reply could not go by the way of its flow, of which a handshake teaches nothing then.
func (m *Model) astray(table Table, t Tuple) {
	if f := m.table(table)[t]; f.Attempt != 0 {
		f.Attempt |= attemptAstray
		m.table(table)[t] = f
	}
}

// reason is one why a packet is left alone, if it applies.
type reason struct {
	outcome bpf.DatapathOutcome
	applies bool
}

// reasons are those that apply.
func reasons(all ...reason) []bpf.DatapathOutcome {
	var applying []bpf.DatapathOutcome
	for _, r := range all {
		if r.applies {
			applying = append(applying, r.outcome)
		}
	}
	return applying
}

func (m *Model) observes(record Interface) bool {
	mode := bpf.DatapathMode(record.Mode)
	if m.Host.ModeByHand != bpf.DatapathModeMODE_CONFIGURED {
		mode = m.Host.ModeByHand
	}
	return mode != bpf.DatapathModeMODE_ENFORCE || m.Host.TrialOver
}

// pair is the counter's key for a packet of the flow, without its outcome.
func (m *Model) pair(f Flow, p *packet, frame Frame) Pair {
	from, _, _ := m.managed(frame.Ifindex)
	return Pair{From: from, To: f.Interface, Family: p.family, Protocol: uint8(class(p.protocol))}
}

// asymmetric counts the flow for which the kernel chose another path.
func (m *Model) asymmetric(table Table, t Tuple, pair Pair) {
	f := m.table(table)[t]
	if f.State&stateAsymmetric == 0 {
		m.count(pair, bpf.DatapathOutcomeOUTCOME_ASYMMETRIC, Count{Flows: 1})
	}
	f.State |= stateAsymmetric
	m.table(table)[t] = f
}

// corrected counts that a packet left by the flow's path.
func (m *Model) corrected(table Table, t Tuple, pair Pair, frame Frame) {
	f, ok := m.table(table)[t]
	if !ok {
		m.countPacket(pair, bpf.DatapathOutcomeOUTCOME_CORRECTED, frame)
		return
	}
	packets, _ := onWire(frame)
	f.Corrected += packets
	m.countFlow(pair, bpf.DatapathOutcomeOUTCOME_CORRECTED, frame, &f.State, stateCorrected)
	m.table(table)[t] = f
}

// countFlow counts a packet, and its flow where its state does not say yet that such a one was counted.
func (m *Model) countFlow(pair Pair, outcome bpf.DatapathOutcome, frame Frame, state *uint8, counted uint8) {
	m.countPacket(pair, outcome, frame)
	if *state&counted == 0 {
		m.count(pair, outcome, Count{Flows: 1})
	}
	*state |= counted
}

func (m *Model) countPacket(pair Pair, outcome bpf.DatapathOutcome, frame Frame) {
	packets, bytes := onWire(frame)
	m.count(pair, outcome, Count{Packets: packets, Bytes: bytes})
}

func (m *Model) count(pair Pair, outcome bpf.DatapathOutcome, c Count) {
	pair.Outcome = uint8(outcome)
	sum := m.Pairs[pair]
	m.Pairs[pair] = Count{sum.Packets + c.Packets, sum.Bytes + c.Bytes, sum.Flows + c.Flows}
}

// onWire is what a packet becomes on the wire: a GSO packet its segments.
func onWire(f Frame) (packets, bytes uint64) {
	packets, bytes = 1, uint64(len(f.Bytes))
	if f.WireLen != 0 {
		bytes = uint64(f.WireLen)
	}
	switch p, _ := read(f); {
	case f.GSOSegs != 0:
		packets = uint64(f.GSOSegs)
	case f.GSOSize != 0 && p != nil: // a virtual machine's packet does not say
		payload := p.length - p.headers
		packets = uint64((payload + f.GSOSize - 1) / f.GSOSize)
	}
	return packets, bytes
}

// size is that of the largest IP packet that a packet becomes on the wire.
func size(p *packet, f Frame) uint32 {
	switch {
	case f.GSOSize != 0:
		return p.headers + f.GSOSize
	case f.NoHeader:
		return uint32(len(f.Bytes))
	default:
		return uint32(len(f.Bytes)) - ethernetSize
	}
}
