// SPDX-License-Identifier: Apache-2.0

package model

import (
	"slices"

	"replypath/bpf"
)

// Egress decides about a frame that the kernel sends by an interface.
func (m *Model) Egress(f Frame) Verdict {
	if h := m.handover; h != nil && f.Arriving && h.ifindex == f.Ifindex {
		m.arrive(f, h)
		return Verdict{}
	}
	if tagged(f) {
		return Verdict{}
	}
	p, failed := read(f)
	switch {
	case len(failed) > 0 && p != nil && p.later:
		return m.fragmentOut(p, f)
	case len(failed) > 0:
		m.oneOf(failed)
		return Verdict{}
	case p == nil || p.otherICMP && p.quote == nil:
		return Verdict{}
	}
	m.replied = false
	v := m.flowOut(p, f)
	if !m.replied {
		v, _ = m.originate(p, p.outbound(), f, bpf.DatapathOutcomeOUTCOME_CORRECTED)
	}
	return v
}

// flowOut decides about a packet by its flow, if it has one.
func (m *Model) flowOut(p *packet, f Frame) Verdict {
	switch {
	case p.quote != nil:
		return m.errorOut(p, f)
	case p.echoRequest, f.CameBy != 0 && m.isForeign(p.turned(), 0):
		return Verdict{}
	case p.protocol == protoTCP:
		return m.segmentOut(p, f)
	default:
		return m.datagramOut(p, f)
	}
}

// errorOut is about an ICMP error that the host sends: it goes back by the path of
// the packet that it quotes.
func (m *Model) errorOut(p *packet, frame Frame) Verdict {
	quoted := readQuote(p.quote, p.family)
	if quoted == nil || quoted.from != p.to {
		return Verdict{}
	}
	t := quoted.inbound()
	if _, ok := m.established(t); ok {
		return m.reply(tableEstablished, t, p, frame)
	}
	if _, ok := m.connectionless(t); ok {
		return m.reply(tableConnectionless, t, p, frame)
	}
	if _, ok := m.halfOpen(t); ok {
		return m.reply(tableHalfOpen, t, p, frame)
	}
	return Verdict{}
}

// fragmentOut is about a later fragment that leaves: it follows the first.
func (m *Model) fragmentOut(p *packet, frame Frame) Verdict {
	first, ok := m.Leads[p.key()]
	ok = ok && m.within(first.Seen, bpf.DatapathIdleSecondsIDLE_FRAGMENT)
	f, there := m.table(first.Table)[first.Tuple]
	isOriginated := first.Table >= tableOriginated
	if isOriginated {
		there = true
	}
	if !ok || !there {
		m.event(laterPart)
		return Verdict{}
	}
	p.protocol = first.Protocol
	if isOriginated {
		v, decided := m.originate(p, first.Tuple, frame, first.Outcome)
		if !decided {
			m.event(laterPart)
		}
		return v
	}
	if f.Ifindex == frame.Ifindex || f.Flags&flagAsRouted != 0 || first.Outcome == bpf.DatapathOutcomeOUTCOME_CORRECTED {
		return m.reply(first.Table, first.Tuple, p, frame)
	}
	pair := m.pair(f, p, frame)
	m.lose(frame)
	m.asymmetric(first.Table, first.Tuple, pair)
	m.countPacket(pair, first.Outcome, frame)
	m.astray(first.Table, first.Tuple)
	return Verdict{}
}

// arrive counts a packet that was moved, where it leaves.
func (m *Model) arrive(f Frame, h *handover) {
	m.handover = nil
	if h.table >= tableOriginated {
		m.countOriginated(h.pair, bpf.DatapathOutcomeOUTCOME_CORRECTED, f, h.first)
		return
	}
	m.corrected(h.table, h.tuple, h.pair, f)
}

func (m *Model) datagramOut(p *packet, frame Frame) Verdict {
	t := p.outbound()
	f, ok := m.connectionless(t)
	if ok {
		f.State |= stateReplied
		taken := t.Protocol == protoUDP && f.Flags&flagNoSocket == 0
		again := f.Flags&flagAssured != 0
		if (taken || again) && m.since(f.Seen) >= m.Ticks(1) && m.since(f.SndUna) >= m.Ticks(1) {
			f.SndUna = m.Now
		}
		m.Connectionless[t] = f
		return m.reply(tableConnectionless, t, p, frame)
	}
	settled := m.Refused[t] || frame.CameBy != 0 && m.isForeign(p.turned(), frame.CameBy)
	switch {
	case p.echoReply, m.provesPeerBegan(t):
	case m.noted(t):
		m.speaks(t)
	case !settled && m.noteworthy(p, frame):
		m.note(t)
	}
	return Verdict{}
}

// noteworthy packets may be the host's beginning of something that would be
// recorded if the peer had begun.
func (m *Model) noteworthy(p *packet, f Frame) bool {
	id, _, _ := m.managed(f.CameBy)
	w := path{ifindex: f.CameBy, id: id, managed: true, record: bpf.DatapathInterface{Flags: interfaceBare}}
	reasons := m.refusals(p.turned(), w)
	byAnother := f.CameBy != 0 && slices.ContainsFunc(reasons, func(e Event) bool { return slices.Contains(ofInterface, e) })
	if len(reasons) > 0 && !byAnother {
		m.Refused[p.outbound()] = true
	}
	return len(reasons) == 0
}

// note writes down that the host spoke first.
func (m *Model) note(t Tuple) {
	m.event(bpf.DatapathEventEVENT_ADMITTED_OUTBOUND)
	m.Outbound[t] = Note{Sent: m.Now}
}

// speaks notes that the host speaks again.
func (m *Model) speaks(t Tuple) {
	note := m.Outbound[t]
	if m.since(note.Sent) >= m.Ticks(1) {
		note.Sent = m.Now
	}
	m.Outbound[t] = note
}

// segmentOut is the table "TCP, outbound" of docs/design/packet.md.
func (m *Model) segmentOut(p *packet, frame Frame) Verdict {
	t := p.outbound()
	if p.has(FlagSYN) && !p.has(FlagACK) { // no host sends a RST with it
		if !m.isHostsFrame(p, frame) {
			return Verdict{}
		}
		delete(m.HalfOpen, t)
		delete(m.Established, t)
		if m.noteworthy(p, frame) {
			m.note(t)
		}
		return Verdict{}
	}
	if p.has(FlagSYN | FlagACK) {
		return m.synAckOut(p, frame)
	}
	if _, ok := m.established(t); ok {
		return m.continueOut(t, p, frame)
	}
	f, ok := m.halfOpen(t)
	switch {
	case !ok && m.revives(t, p):
		return m.continueOut(t, p, frame)
	case ok && f.Flags&flagStray != 0 && p.has(FlagRST): // answers a segment without a socket
		return m.reply(tableHalfOpen, t, p, frame)
	case !ok || f.Flags&flagStray != 0 || !m.continues(f, p):
		return Verdict{}
	}
	if f.State&stateReplied != 0 && !p.has(FlagRST) && int32(p.end()-f.SndNxt) > 0 {
		f.SndNxt = p.end()
	}
	m.HalfOpen[t] = f
	return m.reply(tableHalfOpen, t, p, frame)
}

// revives says whether a segment is sent again of a connection that the host has closed, and whose peer is silent; the
// connection goes on then.
func (m *Model) revives(t Tuple, p *packet) bool {
	f, known := m.Established[t]
	if !known || p.flags&(FlagSYN|FlagRST) != 0 || f.State&stateClosing == 0 ||
		!m.within(f.Seen, bpf.DatapathIdleSecondsIDLE_UNANSWERED) {
		return false
	}
	f.Seen = m.Now
	m.Established[t] = f
	return true
}

// synAckOut: it goes where its SYN came from.
func (m *Model) synAckOut(p *packet, frame Frame) Verdict {
	t := p.outbound()
	if f, ok := m.handshake(t); ok {
		m.synAckLeaves(&f, p, frame)
		if f.State&stateReplied == 0 || f.SndUna != p.seq { // not one that is sent again
			f.SndUna, f.SndNxt = p.seq, p.end()+1
			f.State |= stateReplied
			delete(m.Outbound, t)
			delete(m.Refused, t)
		}
		m.HalfOpen[t] = f
		return m.reply(tableHalfOpen, t, p, frame)
	}
	if _, ok := m.established(t); ok {
		return m.continueOut(t, p, frame)
	}
	return Verdict{}
}

// continueOut is about the next segment of a connection.
func (m *Model) continueOut(t Tuple, p *packet, frame Frame) Verdict {
	f := m.Established[t]
	m.trialGoesOn(&f, p, frame)
	sent(&f, p)
	m.trialWaits(&f, p)
	if m.isHostsFrame(p, frame) {
		m.closes(&f, p)
	}
	m.Established[t] = f
	return m.reply(tableEstablished, t, p, frame)
}

// sent notes how far the host's side of a connection without a socket, or on trial, is. What is not near
// is the next connection with this tuple.
func sent(f *Flow, p *packet) {
	end := p.end()
	if f.Flags&(flagNoSocket|flagOnTrial) == 0 || p.has(FlagRST) {
		return
	}
	switch {
	case f.Flags&flagNoSocket != 0 && !inSequence(p.seq, f.SndUna-near, f.SndNxt+near):
		f.SndUna, f.SndNxt = p.seq, end
	case int32(end-f.SndNxt) > 0:
		f.SndNxt = end
	}
	if p.has(FlagACK) {
		f.RcvNxt = p.ack
	}
}

// continues says whether a segment belongs to a handshake: it goes on from the
// SYN-ACK (Fast Open), or it is the RST of a closed port.
func (m *Model) continues(f Flow, p *packet) bool {
	if f.State&stateReplied == 0 {
		return p.has(FlagRST) && p.seq == 0
	}
	return inSequence(p.seq, f.SndUna+1, f.SndNxt)
}

// closes: a connection that the host ends is idle soon. A RST is the host's answer to something else where the socket
// goes on, or without one here where it is not near what was sent.
func (m *Model) closes(f *Flow, p *packet) {
	goesOn := m.hasSocket(f.Tuple)
	if f.Flags&flagNoSocket != 0 {
		goesOn = !inSequence(p.seq, f.SndUna-near, f.SndNxt+near)
	}
	if p.has(FlagRST) && goesOn {
		return
	}
	ends := p.flags&(FlagFIN|FlagRST) != 0 && f.State&stateClosing == 0
	isDue := m.since(f.Seen) >= m.Ticks(1)
	if ends && isDue {
		m.relate(tableEstablished, f.Tuple)
	}
	if again := p.has(FlagFIN) && isDue; ends || again {
		f.State |= stateClosing
		f.Seen = m.Now
	}
}
