// SPDX-License-Identifier: Apache-2.0

package model

import (
	"bytes"
	"slices"

	"replypath/bpf"
)

const interfaceBare = uint8(bpf.DatapathInterfaceFlagsINTERFACE_NO_HEADER)

// reply decides about a packet that belongs to a flow of a table.
func (m *Model) reply(table Table, t Tuple, p *packet, frame Frame) Verdict {
	f := m.table(table)[t]
	m.replied = true
	if f.Ifindex == frame.Ifindex {
		if f.Flags&flagEnforceMAC != 0 && !frame.NoHeader { // else there is nothing to decide
			m.decided(table, t, p, bpf.DatapathOutcomeOUTCOME_CORRECTED)
		}
		return m.readdress(table, t, p, frame)
	}
	pair := m.pair(f, p, frame)
	m.lose(frame)
	m.asymmetric(table, t, pair, frame)
	record := m.Host.Interfaces[f.Interface]
	mac, found := m.nextHop(f, record)
	found = found || record.Flags&interfaceBare != 0
	reasons := reasons(
		reason{bpf.DatapathOutcomeOUTCOME_LINK_DOWN, !m.isUsable(&f)},
		reason{bpf.DatapathOutcomeOUTCOME_OBSERVE, m.observes(record)},
		reason{bpf.DatapathOutcomeOUTCOME_NO_NEXT_HOP, !found},
	)
	large := isLarge(p, frame, record)
	if large {
		reasons = append(reasons, bpf.DatapathOutcomeOUTCOME_MTU)
	}
	if m.stays(pair, frame, reasons) {
		m.decided(table, t, p, reasons[0])
		if len(reasons) == 1 && large {
			told := m.tell(&f, p, frame, record)
			m.tellOnce(table, t, f.Told)
			return told
		}
		return Verdict{}
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

// isLarge says whether a packet is too large for an interface. The segments of SCTP have no one size.
func isLarge(p *packet, frame Frame, record Interface) bool {
	return size(p, frame) > record.Mtu || frame.GSOSize != 0 && p.protocol == protoSCTP
}

// tellOnce keeps in mind when a flow's sender was told of a size.
func (m *Model) tellOnce(table Table, t Tuple, told uint16) {
	f := m.table(table)[t]
	f.Told = told
	m.table(table)[t] = f
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
	record, ok := m.Host.Interfaces[f.Interface]
	if f.Flags&flagEnforceMAC == 0 || frame.NoHeader {
		return Verdict{}
	}
	pair := m.pair(f, p, frame)
	packets, bytes := onWire(frame)
	if !ok || record.Ifindex != f.Ifindex {
		m.count(pair, bpf.DatapathOutcomeOUTCOME_LINK_DOWN, Count{Packets: packets, Bytes: bytes})
		return Verdict{}
	}
	mac, found := m.nextHop(f, record)
	if !found {
		m.count(pair, bpf.DatapathOutcomeOUTCOME_NO_NEXT_HOP, Count{Packets: packets, Bytes: bytes})
		return Verdict{}
	}
	if mac == p.destination {
		return Verdict{}
	}
	m.asymmetric(table, t, pair, frame)
	if m.stays(pair, frame, reasons(reason{bpf.DatapathOutcomeOUTCOME_OBSERVE, m.observes(record)})) {
		return Verdict{}
	}
	f = m.table(table)[t]
	count := Count{Packets: packets, Bytes: bytes}
	if f.State&stateCorrected == 0 {
		count.Flows = 1
	}
	f.State |= stateCorrected
	f.Corrected += packets
	m.table(table)[t] = f
	m.count(pair, bpf.DatapathOutcomeOUTCOME_CORRECTED, count)
	return Verdict{Bytes: readdressed(frame, mac, record.Mac)}
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

// stays counts why a packet is left alone, if it is: the first of the reasons.
func (m *Model) stays(pair Pair, frame Frame, reasons []bpf.DatapathOutcome) bool {
	if len(reasons) == 0 {
		return false
	}
	packets, bytes := onWire(frame)
	m.count(pair, reasons[0], Count{Packets: packets, Bytes: bytes})
	return true
}

func (m *Model) observes(record Interface) bool {
	mode := bpf.DatapathMode(record.Mode)
	if m.Host.ModeByHand != bpf.DatapathModeMODE_CONFIGURED {
		mode = m.Host.ModeByHand
	}
	return mode != bpf.DatapathModeMODE_ENFORCE
}

// pair is the counter's key for a packet of the flow, without its outcome.
func (m *Model) pair(f Flow, p *packet, frame Frame) Pair {
	from, _, _ := m.managed(frame.Ifindex)
	return Pair{From: from, To: f.Interface, Family: p.family, Protocol: uint8(class(p.protocol))}
}

// asymmetric counts that the kernel chose another way than the flow's.
func (m *Model) asymmetric(table Table, t Tuple, pair Pair, frame Frame) {
	f := m.table(table)[t]
	packets, bytes := onWire(frame)
	count := Count{Packets: packets, Bytes: bytes}
	if f.State&stateAsymmetric == 0 {
		count.Flows = 1
	}
	f.State |= stateAsymmetric
	m.table(table)[t] = f
	m.count(pair, bpf.DatapathOutcomeOUTCOME_ASYMMETRIC, count)
}

func (m *Model) count(pair Pair, outcome bpf.DatapathOutcome, c Count) {
	pair.Outcome = uint8(outcome)
	sum := m.Pairs[pair]
	sum.Packets += c.Packets
	sum.Bytes += c.Bytes
	sum.Flows += c.Flows
	m.Pairs[pair] = sum
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
