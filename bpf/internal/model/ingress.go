// SPDX-License-Identifier: Apache-2.0

package model

import (
	"net/netip"
	"slices"

	"replypath/bpf"
)

// Ingress decides about a frame that comes in. It always passes, and as it is but
// for the size that a SYN announces.
func (m *Model) Ingress(f Frame) Verdict {
	if f.Foreign || tagged(f) {
		return Verdict{}
	}
	p, failed := read(f)
	switch {
	case len(failed) > 0:
		m.oneOf(failed)
	case p == nil || p.otherICMP || p.echoReply:
	case p.protocol == protoTCP:
		opens, dropped := m.segmentIn(p, m.path(f, p))
		if opens {
			return m.announced(f, p)
		}
		return Verdict{Dropped: dropped}
	default:
		m.datagramIn(p, m.path(f, p))
	}
	return Verdict{}
}

// tagged frames belong to their VLAN's device; a tag with VLAN 0 is a priority.
func tagged(f Frame) bool { return f.Tag != nil && *f.Tag&0x0fff != 0 }

// datagramIn is about everything that has no connection.
func (m *Model) datagramIn(p *packet, w path) {
	if m.passesForeign(p, w) {
		return
	}
	t := p.inbound()
	if f, ok := m.connectionless(t); ok {
		first := !w.of(f) || m.since(f.Seen) >= m.Ticks(1) // this second, or by another path
		isDue, isLost := w.of(f) && first, false
		if w.of(f) {
			m.forgetRival(&f)
			m.refresh(&f, w)
			if f.State&stateReplied != 0 && !isPing(t) { // answered, and asked again
				f.Flags |= flagAssured
			}
		} else {
			var moved bool
			moved, isLost = m.follow(&f, p, w, func() bool { return m.isCutOff(f) || !isToBeDropped(f, p, w) && m.hasMoved(&f, w) })
			if moved {
				f.SndNxt = 0
			}
		}
		m.Connectionless[t] = f
		if isDue && f.Flags&flagNoSocket == 0 {
			m.relate(tableConnectionless, t)
		}
		if (first || f.Flags&flagAlternates != 0) && f.Flags&flagNoSocket == 0 && !isLost {
			m.asks(t, bpf.DatapathSourceRepairREPAIR_ON)
		}
		return
	}
	if m.answersHost(t, w) {
		m.event(bpf.DatapathEventEVENT_IGNORED_ANSWER)
		return
	}
	reasons := m.refusals(p, w)
	unlisted := !m.Host.Protocols[p.protocol] && len(reasons) == 1+len(unusable(w))
	if m.Sockets.ConnectedUDP[t] && !m.peerBegan(t) && !unlisted { // the host asked
		reasons = append(reasons, bpf.DatapathEventEVENT_IGNORED_ANSWER)
	}
	if m.isRoutedAnyway(p.to) && !m.forWildcard(t) && !unlisted { // no source is to be repaired
		reasons = append(reasons, bpf.DatapathEventEVENT_IGNORED_LOOPBACK)
	}
	if len(reasons) > 0 {
		m.refused(p, w, reasons)
		bound := m.Sockets.OpenUDP[netip.AddrPortFrom(p.to, p.toPort)] || m.Sockets.ConnectedUDP[t]
		if bound && len(reasons) == 1 && m.isRoutedAnyway(p.to) && m.Host.Repair != bpf.DatapathSourceRepairREPAIR_OFF && p.protocol == protoUDP {
			m.Refused[t] = true
		}
		return
	}
	if m.Refused[t] { // the host spoke first, from an address that nobody knew
		return
	}
	m.datagramBegins(p, m.begin(t, w))
}

// peerBegan says whether a flow of the tuple that is over proves that the peer began: the host answered
// its datagrams. What the host sends then is no beginning.
func (m *Model) peerBegan(t Tuple) bool { return m.Connectionless[t].State&stateReplied != 0 }

// provesPeerBegan says the same of who spoke first: for as long as a note lasts.
func (m *Model) provesPeerBegan(t Tuple) bool {
	return m.peerBegan(t) && m.within(m.Connectionless[t].Seen, bpf.DatapathIdleSecondsIDLE_OUTBOUND)
}

// datagramBegins records a flow, for whoever takes its datagrams.
func (m *Model) datagramBegins(p *packet, f Flow) {
	wildcard := netip.AddrPortFrom(netip.IPv6Unspecified(), p.toPort)
	bound, open := m.Sockets.OpenUDP[netip.AddrPortFrom(p.to, p.toPort)], m.Sockets.OpenUDP[wildcard]
	bound = bound || m.Sockets.ConnectedUDP[f.Tuple]
	_, own := m.Host.OwnAddresses[p.to]
	if own && p.protocol == protoUDP && !bound && !open {
		f.Flags |= flagNoSocket
	}
	m.Connectionless[f.Tuple] = f
	m.event(bpf.DatapathEventEVENT_ADMITTED_CONNECTIONLESS)
	if f.Flags&flagNoSocket == 0 {
		m.beginRelation(f, true)
	}
	m.asks(f.Tuple, bpf.DatapathSourceRepairREPAIR_ON, bpf.DatapathSourceRepairREPAIR_WATCH)
}

// stray notes how a segment came in that is of no flow, and that the kernel answers with a RST.
func (m *Model) stray(p *packet, w path) {
	t := p.inbound()
	f, live := m.halfOpen(t)
	switch isStray := f.Flags&flagStray != 0; {
	case live && isStray && w.of(f):
		if m.since(f.Seen) >= m.Ticks(1) {
			f.Seen = m.Now
			m.HalfOpen[t] = f
		}
	case len(unusable(w)) > 0:
		m.oneOf(unusable(w))
	case !live || isStray:
		f = m.begin(t, w)
		f.Flags |= flagStray
		m.HalfOpen[t] = f
	}
}

// noted says whether the host spoke first, and one of both within the last hour.
func (m *Model) noted(t Tuple) bool {
	note, ok := m.Outbound[t]
	return ok && m.IsNoted(note)
}

// hears notes that an answer came, and says whether it is the first of a second.
func (m *Model) hears(t Tuple) bool {
	note := m.Outbound[t]
	if note.Heard != 0 && m.since(note.Heard) < m.Ticks(1) {
		return false
	}
	note.Heard = m.Now
	m.Outbound[t] = note
	return true
}

// answersHost says whether a datagram answers one of the host's. Where none came before, and the host
// sent before the grace was over, it may have answered what nobody saw.
func (m *Model) answersHost(t Tuple, w path) bool {
	note := m.Outbound[t]
	if !m.noted(t) || m.provesPeerBegan(t) || note.Heard == 0 && m.since(note.Sent) >= m.since(m.Host.GraceUntil) {
		return false
	}
	if !m.hears(t) {
		return true
	}
	m.relateAnswer(t, w, false)
	if t.Protocol == protoUDP && m.Host.Repair != bpf.DatapathSourceRepairREPAIR_OFF {
		m.answers(t)
	}
	return true
}

// isCutOff says whether nothing can leave by a flow's path.
func (m *Model) isCutOff(f Flow) bool {
	_, usable := m.usable(f.Gateway, f.Ifindex)
	return !m.isUsable(&f) || f.Flags&(flagGateway|flagWay) == flagGateway && !usable
}

// isToBeDropped says whether the kernel drops an IPv4 frame later on: rp_filter is strict where it came, and all answers
// left by the flow's own interface without replypath.
func isToBeDropped(f Flow, p *packet, w path) bool {
	isSymmetric := f.State&stateReplied != 0 && f.State&stateAsymmetric == 0
	return w.record.Flags&interfaceStrict != 0 && p.from.Is4() && f.Ifindex != w.ifindex && isSymmetric
}

// rivalOwner marks the number of a path by the interface that alone has the asked address, which the flow's path is not by.
const rivalOwner = 2

// forgetRival: a frame came by the flow's own path, so that no other is the only one. The owner of the address need not be
// that: only what came by it more than three minutes ago is forgotten.
func (m *Model) forgetRival(f *Flow) {
	if f.SndNxt&rivalOwner == 0 || m.since(f.RcvNxt) > m.Ticks(uint32(bpf.DatapathIdleSecondsIDLE_CONNECTIONLESS)) {
		f.SndNxt = 0
	}
}

// hasMoved says whether the peer of a flow without a connection has come by one other path alone for ten seconds, and three
// times, or not alone, but by the owner of the address; or by a gateway of the same interface, after a second of silence.
func (m *Model) hasMoved(f *Flow, w path) bool {
	if f.Flags&flagActive != 0 {
		f.Flags &^= flagActive
		m.forgetRival(f)
	} else if f.Ifindex == w.ifindex && m.since(f.Seen) >= m.Ticks(1) && m.senderOf(netip.AddrFrom16(f.Tuple.Peer).Unmap(), w) != 0 {
		return true
	}
	number := w.number()
	if w.id != f.Interface && w.id == m.ownerOf(netip.AddrFrom16(f.Tuple.Self).Unmap()) {
		number |= rivalOwner
	}
	if f.SndNxt != number {
		f.SndNxt, f.RcvNxt, f.RivalFrames = number, m.Now, 0
	}
	f.RivalFrames = min(f.RivalFrames+1, 3)
	return f.RivalFrames == 3 && m.since(f.RcvNxt) >= m.Ticks(10)
}

// follow moves a flow to the path of a frame, as far as the settings allow. isLost: it was to move, and no flow can have that
// path.
func (m *Model) follow(f *Flow, p *packet, w path, proof func() bool) (moved, isLost bool) {
	if m.isOfOthers(p, w) {
		m.event(bpf.DatapathEventEVENT_IGNORED_TUNNEL)
		m.countAtTunnel(p, w)
		return false, false
	}
	reasons := unusable(w)
	if m.Host.Follow == bpf.DatapathFollowFOLLOW_PINNED {
		reasons = append(reasons, bpf.DatapathEventEVENT_REFUSED_PINNED)
	}
	if m.Host.Follow == bpf.DatapathFollowFOLLOW_VALIDATED && !proof() {
		reasons = append(reasons, bpf.DatapathEventEVENT_REFUSED_CONTESTED)
	}
	if len(reasons) > 0 {
		return false, slices.Contains(unusable(w), m.oneOf(reasons))
	}
	m.takeAnew(f, w)
	f.State &^= stateAsymmetric | stateCorrected
	m.event(bpf.DatapathEventEVENT_MOVED + Event(class(f.Tuple.Protocol)))
	return true, false
}

// unusable is why no flow can have this path.
func unusable(w path) (reasons []Event) {
	if !w.managed {
		reasons = append(reasons, bpf.DatapathEventEVENT_IGNORED_INTERFACE)
	}
	if badMAC(w) {
		reasons = append(reasons, bpf.DatapathEventEVENT_IGNORED_MAC)
	}
	return reasons
}

// AskerOf is what a socket that is bound to no address tells of whom it answers: the peer's address and port, and its
// own port. The rest of the tuple is empty.
func AskerOf(t Tuple) Tuple { return Tuple{Peer: t.Peer, PeerPort: t.PeerPort, SelfPort: t.SelfPort} }

func askerKey(t Tuple) LeadKey { return LeadKey{bpf.DatapathLeadKindLEAD_ASKER, AskerOf(t)} }

// forWildcard says whether a datagram that comes in by a tuple is for a socket that is bound to no
// address.
func (m *Model) forWildcard(t Tuple) bool {
	self := netip.AddrFrom16(t.Self).Unmap()
	_, own := m.Host.OwnAddresses[self]
	port := network(t.SelfPort) // and back
	return own && !m.Sockets.ConnectedUDP[t] && !m.Sockets.OpenUDP[netip.AddrPortFrom(self, port)] &&
		m.Sockets.OpenUDP[netip.AddrPortFrom(netip.IPv6Unspecified(), port)]
}

// answers notes that the peer answered what the host began, which keeps its source. That is known by the peer and the ports.
func (m *Model) answers(t Tuple) {
	asker := AskerOf(t)
	if !m.noted(asker) && !m.forWildcard(t) {
		return
	}
	m.Outbound[asker] = Note{Sent: m.Now, Heard: m.Now}
	delete(m.Leads, askerKey(t))
}

// asks notes that the peer of a flow of datagrams asked by it, if the repair of sources is in
// one of these states, unless the host began with that peer. Of a peer that asks several
// addresses by one port each datagram counts until the flow's next second.
func (m *Model) asks(t Tuple, states ...bpf.DatapathSourceRepair) {
	asker := AskerOf(t)
	last, known := m.Leads[askerKey(t)]
	before := last.Tuple
	if t.Protocol != protoUDP || !slices.Contains(states, m.Host.Repair) ||
		m.noted(asker) || !m.forWildcard(t) {
		return
	}
	if m.Host.Repair == bpf.DatapathSourceRepairREPAIR_WATCH {
		m.Leads[LeadKey{Kind: bpf.DatapathLeadKindLEAD_WATCHED}] = m.askedLead(t)
	}
	if known && before == t {
		return
	}
	m.Leads[askerKey(t)] = m.askedLead(t)
	if !known {
		return
	}
	other, live := m.connectionless(before)
	if !live {
		return
	}
	f := m.Connectionless[t]
	f.Flags |= flagAlternates
	other.Flags |= flagAlternates
	m.Connectionless[t], m.Connectionless[before] = f, other
}
