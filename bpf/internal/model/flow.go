// SPDX-License-Identifier: Apache-2.0

package model

import (
	"encoding/binary"
	"hash/crc32"

	"replypath/bpf"
)

const (
	flagGateway    = uint16(bpf.DatapathFlowFlagsFLOW_NEXT_HOP_GATEWAY)
	flagEnforceMAC = uint16(bpf.DatapathFlowFlagsFLOW_ENFORCE_MAC)
	flagActive     = uint16(bpf.DatapathFlowFlagsFLOW_ACTIVE)
	flagReset      = uint16(bpf.DatapathFlowFlagsFLOW_RESET)
	flagStray      = uint16(bpf.DatapathFlowFlagsFLOW_STRAY)
	flagNoSocket   = uint16(bpf.DatapathFlowFlagsFLOW_NO_SOCKET)
	flagAlternates = uint16(bpf.DatapathFlowFlagsFLOW_ALTERNATES)
	flagAssured    = uint16(bpf.DatapathFlowFlagsFLOW_ASSURED)

	stateClosing    = uint8(bpf.DatapathFlowStateFLOW_CLOSING)
	stateReplied    = uint8(bpf.DatapathFlowStateFLOW_REPLIED)
	stateAsymmetric = uint8(bpf.DatapathFlowStateFLOW_ASYMMETRIC)
	stateCorrected  = uint8(bpf.DatapathFlowStateFLOW_CORRECTED)
)

// Table names one of the flow tables.
type Table = bpf.DatapathTable

const (
	tableHalfOpen       = bpf.DatapathTableTABLE_HALF_OPEN
	tableEstablished    = bpf.DatapathTableTABLE_ESTABLISHED
	tableConnectionless = bpf.DatapathTableTABLE_CONNECTIONLESS
)

func (m *Model) table(table Table) map[Tuple]Flow {
	switch table {
	case tableHalfOpen:
		return m.HalfOpen
	case tableEstablished:
		return m.Established
	default:
		return m.Connectionless
	}
}

// path is how a frame came in.
type path struct {
	ifindex uint32
	id      uint16
	record  Interface
	managed bool
	mac     MAC
	opens   bool   // the frame is a SYN
	bytes   uint64 // of the frame
}

func (m *Model) path(f Frame, p *packet) path {
	w := path{ifindex: f.Ifindex, mac: p.source, opens: p.protocol == protoTCP && p.has(FlagSYN) && !p.has(FlagACK)}
	w.id, w.record, w.managed = m.managed(f.Ifindex)
	_, w.bytes = onWire(f)
	return w
}

// number stands for a path, and is not 0: that of another path is another one.
func (w path) number() uint32 {
	return crc32.ChecksumIEEE(binary.BigEndian.AppendUint32(w.mac[:len(w.mac):len(w.mac)], w.ifindex))&^rivalOwner | 1
}

// of says whether a flow has this path.
func (w path) of(f Flow) bool { return f.Ifindex == w.ifindex && f.Mac == w.mac }

// The entries of each table that are not idle.

func (m *Model) halfOpen(t Tuple) (Flow, bool) {
	f, ok := m.HalfOpen[t]
	return f, ok && m.IsHalfOpen(f)
}

// handshake is the half-open entry of a connection that begins.
func (m *Model) handshake(t Tuple) (Flow, bool) {
	f, ok := m.halfOpen(t)
	return f, ok && f.Flags&flagStray == 0
}

func (m *Model) established(t Tuple) (Flow, bool) {
	f, ok := m.Established[t]
	return f, ok && m.IsEstablished(f)
}

func (m *Model) connectionless(t Tuple) (Flow, bool) {
	f, ok := m.Connectionless[t]
	return f, ok && m.IsConnectionless(f)
}

// within says whether a time is no longer ago than that.
func (m *Model) within(ticks uint32, limit bpf.DatapathIdleSeconds) bool {
	return m.since(ticks) <= m.Ticks(uint32(limit))
}

// closing says whether one side has ended the connection.
func closing(f Flow) bool { return f.State&stateClosing != 0 || f.Flags&flagReset != 0 }

// begin is a flow that a frame starts.
func (m *Model) begin(t Tuple, w path) Flow {
	f := Flow{Tuple: t, Created: m.Now}
	m.takeAnew(&f, w)
	return f
}

// take gives a flow the path of a frame that comes in now. It keeps its way.
func (m *Model) take(f *Flow, w path) {
	f.Ifindex, f.Interface, f.Mac = w.ifindex, w.id, w.mac
	f.Seen = m.Now
	f.Flags &= flagReset | flagNoSocket | flagStray | flagAlternates | flagAssured | flagWay | flagOnTrial
	m.chooseNextHop(f, w)
	if !m.mayLearn(*f) { // the configuration says now
		f.Flags &^= flagWay
	}
}

// refresh notes that a frame of the flow came in by the flow's own path. Its time
// is written at most once a second; the next hop is chosen anew then. A connection keeps its way.
func (m *Model) refresh(f *Flow, w path) {
	if m.since(f.Seen) < m.Ticks(1) {
		f.Flags |= flagActive
		return
	}
	f.Flags &^= flagAlternates
	if f.Tuple.Protocol == protoTCP {
		m.take(f, w)
	} else {
		m.takeAnew(f, w)
	}
}

// Whether an entry, of the model's or not, would be live in a table.

func (m *Model) IsHalfOpen(f Flow) bool {
	return m.within(f.Seen, bpf.DatapathIdleSecondsIDLE_HALF_OPEN)
}

func (m *Model) IsEstablished(f Flow) bool {
	if closing(f) {
		return m.within(f.Seen, bpf.DatapathIdleSecondsIDLE_CLOSING)
	}
	return m.within(f.Seen, bpf.DatapathIdleSecondsIDLE_ESTABLISHED)
}

func isPing(t Tuple) bool { return t.Protocol == protoICMP || t.Protocol == protoICMPv6 }

func (m *Model) IsConnectionless(f Flow) bool {
	limit := bpf.DatapathIdleSecondsIDLE_CONNECTIONLESS
	if isPing(f.Tuple) {
		limit = bpf.DatapathIdleSecondsIDLE_ECHO
	}
	return m.within(f.Seen, limit) || f.State&stateReplied != 0 && m.within(f.SndUna, limit) // see spoke in types.h
}

// IsNoted says whether a note is of the last hour.
func (m *Model) IsNoted(note Note) bool {
	return m.within(note.Sent, bpf.DatapathIdleSecondsIDLE_OUTBOUND) ||
		note.Heard != 0 && m.within(note.Heard, bpf.DatapathIdleSecondsIDLE_OUTBOUND)
}

// LeadKey is what a packet shows that does not show all of a flow's tuple.
type LeadKey struct {
	Kind  bpf.DatapathLeadKind
	Parts Tuple
}

// Lead is the flow that had it last, and what was decided about the first fragment of a packet.
type Lead struct {
	Table    Table
	Tuple    Tuple
	Outcome  bpf.DatapathOutcome // of a first fragment a reason to stay; else OUTCOME_CORRECTED
	Protocol uint8               // that of an error is not the flow's
	Seen     uint32              // ticks
}

// key is what the fragments of a packet have in common; of IPv6 the first one alone tells the protocol.
func (p *packet) key() LeadKey {
	id := binary.BigEndian.AppendUint32(nil, p.id)
	if p.from.Is4() { // whose identification has two bytes
		id = binary.NativeEndian.AppendUint32(nil, uint32(network(uint16(p.id)))|uint32(p.inside)<<16)
	}
	return LeadKey{bpf.DatapathLeadKindLEAD_PARTS, Tuple{Peer: p.to.As16(), Self: p.from.As16(),
		PeerPort: binary.NativeEndian.Uint16(id), SelfPort: binary.NativeEndian.Uint16(id[2:])}}
}

// askedLead is of what was asked by a flow of datagrams.
func (m *Model) askedLead(t Tuple) Lead {
	return Lead{Table: tableConnectionless, Tuple: t, Protocol: protoUDP, Seen: m.Now}
}

// decided remembers what became of a first fragment.
func (m *Model) decided(table Table, t Tuple, p *packet, outcome bpf.DatapathOutcome) {
	if p.first {
		m.Leads[p.key()] = Lead{table, t, outcome, p.protocol, m.Now}
	}
}
