// SPDX-License-Identifier: Apache-2.0

package model

import (
	"net/netip"
	"slices"

	"replypath/bpf"
)

// segmentIn is the table "TCP, inbound" of docs/design/packet.md. It says whether the
// segment is a SYN whose answer goes by this interface, or a RST that is dropped.
func (m *Model) segmentIn(p *packet, w path) (opens, dropped bool) {
	isSYN := p.has(FlagSYN) && !p.has(FlagACK)
	switch {
	case !isSYN && m.passesForeign(p, w):
	case p.has(FlagRST):
		return false, m.resetIn(p, w)
	case isSYN:
		return m.synIn(p, w), false
	default:
		m.connectionIn(p, w)
	}
	return false, false
}

// synIn enters or refreshes a half-open entry, or says that it did not.
func (m *Model) synIn(p *packet, w path) bool {
	t := p.inbound()
	f, ok := m.handshake(t)
	reasons := m.refusals(p, w)
	if ok && !w.of(f) && m.Host.Follow == bpf.DatapathFollowFOLLOW_PINNED {
		reasons = append(reasons, bpf.DatapathEventEVENT_REFUSED_PINNED)
	}
	switch {
	case len(reasons) > 0:
		m.refused(p, w, reasons)
		return false
	case ok && w.of(f) && f.RcvNxt-p.seq-1 <= near: // sent again, perhaps without its data
		m.take(&f, w)
		f.RcvNxt = p.end() + 1
	case ok: // what was answered stays known, as the ACK decides
		m.takeAnew(&f, w)
		if f.Attempt != 0 { // what left before may have the number of what leaves from now on
			f.Attempt = attemptAgain
		}
		f.RcvNxt = p.end() + 1
	default:
		f = m.begin(t, w)
		f.RcvNxt = p.end() + 1
		m.event(bpf.DatapathEventEVENT_ADMITTED_HALF_OPEN)
	}
	m.HalfOpen[t] = f
	return true
}

// connectionIn is about segments that begin nothing, among them a SYN-ACK that nothing of ours asked for.
func (m *Model) connectionIn(p *packet, w path) {
	t := p.inbound()
	f, established := m.established(t)
	if (!established || p.has(FlagSYN)) && !m.isAskedAgain(t) {
		if m.isNoFlow(p, w) {
			m.segmentAnswers(p, w)
			return
		}
	}
	if established && w.of(f) && !closing(f) && !m.rose(bpf.DatapathEventEVENT_IGNORED_HANDSHAKE) &&
		!m.rose(bpf.DatapathEventEVENT_ADMITTED_ESTABLISHED) {
		// Whether the handshake of a second connection with the tuple of one that
		// goes on is looked at makes no difference to where replies go.
		m.continueFlow(p, w)
		return
	}
	begun, handshake := m.handshake(t)
	handshake = handshake && begun.State&stateReplied != 0 // else nothing that was seen here ends it
	if handshake && m.completes(p, w) {
		return
	}
	switch {
	case established && w.of(f):
		m.continueFlow(p, w)
	case established:
		if moved, _ := m.follow(&f, p, w, func() bool { return m.plausible(f, p) }); moved {
			m.putOnTrial(&f, p, attemptFirst)
		}
		m.Established[t] = f
	default:
		m.adopt(p, w, handshake)
	}
}

// continueFlow is about the next segment of a flow by its own path.
func (m *Model) continueFlow(p *packet, w path) {
	t := p.inbound()
	f := m.Established[t]
	m.judge(&f, p)
	isDue := m.since(f.Seen) >= m.Ticks(1)
	if isDue && m.hasSocket(t) {
		f.Flags &^= flagNoSocket // SYN cookies: the socket came after the handshake
		if m.fitsSocket(p) {
			f.Flags &^= flagReset    // by a forged RST
			f.State &^= stateClosing // that was the connection before: no socket of these closes
		}
	}
	remember(&f, p)
	m.refresh(&f, w)
	m.Established[t] = f
	if isDue {
		m.relate(tableEstablished, t)
	}
}

// hasSocket says whether a connection ends here.
func (m *Model) hasSocket(t Tuple) bool {
	_, ok := m.Sockets.Connections[t]
	return ok
}

// remember keeps what the peer of a connection without a socket here acknowledged.
func remember(f *Flow, p *packet) {
	if f.Flags&flagNoSocket != 0 && inSequence(p.ack, f.SndUna, f.SndNxt) {
		f.SndUna = p.ack
	}
}

// isAskedAgain says whether the socket of a tuple with an idle entry was asked about
// anew, as it may be; it gives the same answer.
func (m *Model) isAskedAgain(t Tuple) bool {
	_, idle := m.Established[t]
	return idle && slices.ContainsFunc(askedAgain, m.rose)
}

// isNoFlow says whether a segment without an entry is known to begin nothing: the
// host opened its connection, or it was asked about lately. The latter is asked about
// again when it comes by another path, and once a second, for the RST that follows; and
// while a handshake has been answered since, which it may end.
func (m *Model) isNoFlow(p *packet, w path) bool {
	t := p.inbound()
	return m.noted(t) || m.Refused[t] && !m.changesHalfOpen(t, w)
}

// segmentAnswers: once a second, a segment of a connection that the host opened proves the path of its peer, if its socket
// expects it. One that it does not expect is no reason not to look at the next. Where the peer opened it the note is not of
// it, and goes.
func (m *Model) segmentAnswers(p *packet, w path) {
	t := p.inbound()
	socket, ok := m.Sockets.Connections[t]
	if !m.noted(t) || ok && !m.fitsSocket(p) {
		return
	}
	switch {
	case !m.hears(t) || !ok:
	case socket.Accepted:
		delete(m.Outbound, t)
	default:
		m.relateAnswer(t, w, true)
	}
}

// changesHalfOpen says whether a segment shows its stray another path, or is the first
// this second; or may end a handshake. An idle one may have made room for another entry.
func (m *Model) changesHalfOpen(t Tuple, w path) bool {
	switch f, live := m.halfOpen(t); {
	case live && f.Flags&flagStray != 0:
		return !w.of(f) || m.since(f.Seen) >= m.Ticks(1)
	case live:
		return f.State&stateReplied != 0
	}
	return slices.ContainsFunc(askedAgain, m.rose)
}

// askedAgain are the events that show it.
var askedAgain = []Event{
	bpf.DatapathEventEVENT_ADMITTED_ESTABLISHED,
	bpf.DatapathEventEVENT_ADMITTED_OUTBOUND, // the host opened it
	bpf.DatapathEventEVENT_IGNORED_EXCLUDED,
	bpf.DatapathEventEVENT_IGNORED_HANDSHAKE,
	bpf.DatapathEventEVENT_IGNORED_INTERFACE,
	bpf.DatapathEventEVENT_IGNORED_MAC,
	bpf.DatapathEventEVENT_IGNORED_NO_SOCKET,
	bpf.DatapathEventEVENT_IGNORED_SEGMENT,
	bpf.DatapathEventEVENT_IGNORED_TUNNEL,
}

// completes ends a handshake if the segment acknowledges what was sent in it.
func (m *Model) completes(p *packet, w path) bool {
	t := p.inbound()
	f := m.HalfOpen[t]
	if !p.has(FlagACK) || p.has(FlagSYN) || !inSequence(p.ack, f.SndUna+1, f.SndNxt) {
		m.event(bpf.DatapathEventEVENT_IGNORED_HANDSHAKE)
		return false
	}
	m.learn(f, false)
	reasons, cameHere := unusable(w), w.of(f)
	switch {
	case cameHere && m.since(f.Seen) < m.Ticks(1): // the next hop was chosen a moment ago
		f.Seen = m.Now
		f.Flags &^= flagActive
	case !cameHere && m.Host.Follow == bpf.DatapathFollowFOLLOW_PINNED:
		m.event(bpf.DatapathEventEVENT_REFUSED_PINNED)
		f.Seen = m.Now
		f.Flags &^= flagActive
	case !cameHere && m.isOfOthers(p, w):
		m.event(bpf.DatapathEventEVENT_IGNORED_TUNNEL)
		m.countAtTunnel(p, w)
		f.Seen = m.Now
		f.Flags &^= flagActive
	case len(reasons) > 0:
		m.oneOf(reasons)
		return false // as if there had been no handshake
	case cameHere:
		m.take(&f, w)
	default:
		m.takeAnew(&f, w)
	}
	f.State &^= stateReplied | stateClosing
	f.Flags &^= flagSettled
	if !m.hasSocket(t) {
		f.Flags |= flagNoSocket
		f.SndUna, f.RcvNxt = p.ack, p.end()
	}
	switch {
	case !cameHere:
		m.putOnTrial(&f, p, attemptFirst)
	case f.Attempt&(attemptAgain|attemptAstray) != 0:
		m.putOnTrial(&f, p, f.Attempt&^attemptSent)
	}
	delete(m.HalfOpen, t)
	m.Established[t] = f
	m.event(bpf.DatapathEventEVENT_ADMITTED_ESTABLISHED)
	m.beginRelation(f, false)
	return true
}

// inSequence says whether low <= number <= high in sequence space.
func inSequence(number, low, high uint32) bool { return number-low <= high-low }

// near is how far a sequence number may be from where a connection stands.
const near = 65536

// mostAhead is how much a RST may follow that a connection has not acknowledged.
const mostAhead = 256 << 10

// plausible says whether a segment belongs to where its connection stands, as far
// as the socket knows, or the entry where there is no socket.
func (m *Model) plausible(f Flow, p *packet) bool {
	if m.hasSocket(p.inbound()) {
		return m.fitsSocket(p)
	}
	sent := uint32(near)
	if int32(f.SndNxt-(f.SndUna+near)) > 0 {
		sent = f.SndNxt - f.SndUna
	}
	return f.Flags&flagNoSocket != 0 && p.has(FlagACK) && !p.has(FlagSYN) && inSequence(p.ack, f.SndUna-near, f.SndUna+sent) &&
		inSequence(p.seq, f.RcvNxt-near, f.RcvNxt+near)
}

// fitsSocket: the segment acknowledges what was sent, and continues near what the
// socket expects.
func (m *Model) fitsSocket(p *packet) bool {
	s, ok := m.Sockets.Connections[p.inbound()]
	return ok && p.has(FlagACK) && !p.has(FlagSYN) && inSequence(p.ack, s.Acked, s.Written) &&
		inSequence(p.seq, s.Received-near, s.Received+max(near, s.Window))
}

// adopt records a connection in mid-life if its socket says that the peer
// opened it.
func (m *Model) adopt(p *packet, w path, handshake bool) {
	t := p.inbound()
	if reasons := m.strange(p, w); len(reasons) > 0 {
		// The last ACK of a handshake may still come; so may the tuple by another interface.
		if m.refused(p, w, reasons) && !handshake && !m.isOfOthers(p, w) {
			m.Refused[t] = true
		}
		return
	}
	socket, ok := m.Sockets.Connections[t]
	switch {
	case ok && !m.fitsSocket(p):
		m.event(bpf.DatapathEventEVENT_IGNORED_SEGMENT)
	case ok && !socket.Accepted:
		m.note(t)
	case ok && len(unusable(w)) > 0:
		m.oneOf(unusable(w))
	case ok:
		f := m.begin(t, w)
		m.putOnTrial(&f, p, attemptFirst)
		m.Established[t] = f
		m.event(bpf.DatapathEventEVENT_ADMITTED_ESTABLISHED)
		m.event(bpf.DatapathEventEVENT_READMITTED_ESTABLISHED)
	case m.Sockets.Listeners[netip.AddrPortFrom(p.to, p.toPort)]:
		m.event(bpf.DatapathEventEVENT_IGNORED_SEGMENT)
		m.stray(p, w)
	case !handshake:
		m.event(bpf.DatapathEventEVENT_IGNORED_NO_SOCKET)
		m.Refused[t] = true
		m.stray(p, w)
	}
}

// strange are the refusals that no socket is asked about: all but those that lie
// in the way, since only what would be recorded is refused for them.
func (m *Model) strange(p *packet, w path) []Event {
	return slices.DeleteFunc(m.refusals(p, w), func(e Event) bool { return slices.Contains(unusable(w), e) })
}

// resetIn is about a peer's RST: it ends a flow if its sequence number is exactly
// what is expected, whichever way it comes. By the path of the flow it may be ahead of that, if something came a moment
// ago that its socket has not taken yet. It is dropped where what was sent to find out a way provoked it.
func (m *Model) resetIn(p *packet, w path) (dropped bool) {
	t := p.inbound()
	f, established := m.established(t)
	if handshake, ok := m.handshake(t); !established && ok {
		if dropped = m.provoked(&handshake, p, w); dropped {
			m.HalfOpen[t] = handshake
		} else {
			m.resetHandshake(handshake, p, w)
		}
	}
	if !established {
		return dropped
	}
	if f.Flags&flagOnTrial != 0 && m.provoked(&f, p, w) {
		m.Established[t] = f
		return true
	}
	first, last, known := f.RcvNxt, f.RcvNxt, f.Flags&flagNoSocket != 0
	ahead := uint32(mostAhead)
	if socket, ok := m.Sockets.Connections[t]; ok {
		first, last, known = socket.Received, socket.Received, true
		ahead = min(ahead, socket.Window)
	}
	if w.of(f) && m.since(f.Seen) < m.Ticks(1) {
		last += ahead
	}
	switch {
	case known && inSequence(p.seq, first, last):
		if f.Flags&flagReset == 0 {
			if m.since(f.Seen) >= m.Ticks(1) {
				m.relate(tableEstablished, t)
			}
			f.Seen = m.Now
		}
		f.Flags |= flagReset
		m.Established[t] = f
	case !w.of(f):
		m.event(bpf.DatapathEventEVENT_REFUSED_CONTESTED)
	}
	return false
}

// end is the sequence number after a segment; a FIN counts as one.
func (p *packet) end() uint32 {
	if p.has(FlagFIN) {
		return p.seq + p.payload + 1
	}
	return p.seq + p.payload
}
