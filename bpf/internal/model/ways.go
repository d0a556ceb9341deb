// SPDX-License-Identifier: Apache-2.0

package model

import (
	"net/netip"

	"replypath/bpf"
)

// Names of what is learnt from handshakes.
type (
	Sender = bpf.DatapathSender
	Learnt = bpf.DatapathLearnt
	Begun  = bpf.DatapathBegun
)

const (
	flagLastHop  = uint16(bpf.DatapathFlowFlagsFLOW_LAST_HOP)
	flagAsRouted = uint16(bpf.DatapathFlowFlagsFLOW_AS_ROUTED)
	flagWay      = uint16(bpf.DatapathFlowFlagsFLOW_WAY)
	flagOnTrial  = uint16(bpf.DatapathFlowFlagsFLOW_ON_TRIAL)
	flagSettled  = uint16(bpf.DatapathFlowFlagsFLOW_SETTLED)

	attemptSent   = uint8(bpf.DatapathAttemptATTEMPT_SENT)
	attemptChoice = uint8(bpf.DatapathAttemptATTEMPT_CHOICE)
	attemptAgain  = uint8(bpf.DatapathAttemptATTEMPT_AGAIN)
	attemptAstray = uint8(bpf.DatapathAttemptATTEMPT_ASTRAY)

	attemptUnheard = uint8(bpf.DatapathAttemptATTEMPT_UNHEARD)
	attemptFirst   = uint8(bpf.DatapathAttemptATTEMPT_FIRST)
	attemptRefused = uint8(bpf.DatapathAttemptATTEMPT_REFUSED)
)

// senderKey is who brought a flow. Its neighbours count apart.
func (m *Model) senderKey(f Flow) Sender {
	key := Sender{Mac: f.Mac, Interface: f.Interface, Self: f.Tuple.Self, Gateway: f.Gateway}
	if f.Gateway == 0 && m.onLink(netip.AddrFrom16(f.Tuple.Peer).Unmap(), path{ifindex: f.Ifindex}) {
		key.Gateway = uint16(bpf.DatapathHopON_LINK_HOP)
	}
	return key
}

// learnt is what is known of who brought a flow, if it holds: the sender was heard within a day, its gateway is the same, or
// cannot be used, and the link was not down.
func (m *Model) learnt(f Flow) (Learnt, bool) {
	l, known := m.Ways[m.senderKey(f)]
	mac, usable := m.usable(f.Gateway, f.Ifindex)
	return l, known && m.within(l.Heard, bpf.DatapathIdleSecondsIDLE_SENDER) && l.Downs == m.downs(f) &&
		(!usable || l.Gateway == mac)
}

// downs is how often the link of a flow's interface went down, as far as the kernel tells.
func (m *Model) downs(f Flow) uint16 {
	if !m.Host.ShowsLinks || m.Host.Gone[f.Interface] {
		return 0
	}
	return m.Host.Downs[f.Interface]
}

func (m *Model) mayLearn(f Flow) bool {
	record, known := m.Host.Interfaces[f.Interface]
	return known && record.Ifindex == f.Ifindex && record.NextHop == nextHopAuto
}

// takeAnew gives a flow the path of a frame, and the way that was learnt of its sender, which only a handshake has to prove.
func (m *Model) takeAnew(f *Flow, w path) {
	m.take(f, w)
	f.Flags &^= flagWay
	if m.isRoutedAnyway(netip.AddrFrom16(f.Tuple.Self).Unmap()) {
		f.Flags |= flagAsRouted
		return
	}
	l, holds := m.learnt(*f)
	if !holds || !m.mayLearn(*f) {
		return
	}
	if f.Tuple.Protocol != protoTCP {
		m.hear(&l)
	}
	if w.opens || l.Proven != 0 {
		f.Flags |= l.Way
	}
	if w.opens && l.Settled != 0 && l.Proven != 0 && m.since(l.Heard) < m.Ticks(30) {
		f.Flags |= flagSettled
	}
	m.Ways[m.senderKey(*f)] = l
}

// nextWay is by which a packet is sent that is sent again, after this one.
func (m *Model) nextWay(f Flow, p *packet, frame Frame, way uint16) uint16 {
	own, rule := frame.Ifindex == f.Ifindex, f.Mac
	if own && f.Flags&flagEnforceMAC == 0 {
		rule = p.destination
	} else if mac, usable := m.usable(f.Gateway, f.Ifindex); f.Flags&flagGateway != 0 && usable {
		rule = mac
	}
	_, _, routable := m.managed(frame.Ifindex)
	differs := !own || p.destination != rule && p.destination != f.Mac
	switch {
	case way == 0 && rule != f.Mac:
		return flagLastHop
	case way != flagAsRouted && f.Attempt&attemptRefused == 0 && routable && differs:
		return flagAsRouted
	}
	return 0
}

// tryNextWay: a packet is sent again, 3/4 of a second or more after the last one. It says whether that takes another way.
func (m *Model) tryNextWay(f *Flow, p *packet, frame Frame) bool {
	if m.sinceSent(*f) < m.Ticks(3)/4 || !m.mayLearn(*f) || m.observes(m.Host.Interfaces[f.Interface]) {
		return false
	}
	next := m.nextWay(*f, p, frame, f.Flags&flagWay)
	if l, holds := m.learnt(*f); holds && l.Way == 0 {
		next = 0 // as the rule's way was seen to work
	}
	if next == f.Flags&flagWay {
		return false
	}
	f.Attempt |= attemptAgain
	f.Flags = f.Flags&^flagWay | next
	f.Sent = uint16(m.Now)
	return true
}

func (m *Model) sinceSent(f Flow) uint32 {
	if ticks := uint16(m.Now) - f.Sent; ticks < 1<<16-256 {
		return uint32(ticks)
	}
	return 0 // another CPU is ahead
}

// synAckLeaves: it may be one that is sent again.
func (m *Model) synAckLeaves(f *Flow, p *packet, frame Frame) {
	if f.Attempt&attemptSent != 0 {
		m.tryNextWay(f, p, frame)
	} else if _, _, routable := m.managed(frame.Ifindex); m.nextWay(*f, p, frame, 0) != 0 && (routable || f.Flags&flagAsRouted == 0) {
		f.Attempt |= attemptChoice
		if f.Flags&flagSettled == 0 && m.mayLearn(*f) && !m.observes(m.Host.Interfaces[f.Interface]) {
			m.beginByWay(f, p, frame)
		}
	}
	f.Attempt |= attemptSent
	if f.Attempt&attemptRefused == 0 {
		f.Sent = uint16(m.Now)
	}
}

// beginByWay: a minute after another way than the rule's was learnt, one handshake begins by the rule's, and each after twice
// the time. Where nothing is known of a sender, the next handshake takes the next way, if the last one was not answered.
func (m *Model) beginByWay(f *Flow, p *packet, frame Frame) {
	key := m.senderKey(*f)
	if l, holds := m.learnt(*f); holds {
		if l.Settled == 0 && m.since(l.Since) >= m.Ticks(60) && m.since(l.Tried) >= m.Ticks(10)<<l.Tries {
			l.Tried, l.Tries = m.Now, min(l.Tries+1, 6)
			f.Flags &^= flagWay
			m.Ways[key] = l
		}
		return
	}
	last, isRecent := m.Begun[key]
	if isRecent = isRecent && m.since(last.Sent) < m.Ticks(60); !isRecent {
		last = Begun{Sent: m.Now}
	} else if m.since(last.Sent) >= m.Ticks(3)/4 {
		last = Begun{Sent: m.Now, Way: m.nextWay(*f, p, frame, last.Way)}
	}
	m.Begun[key] = last
	f.Flags = f.Flags&^flagWay | last.Way
}

// provoked: a RST that acknowledges nothing answers what just left as routed, which was not proven. That way is not tried
// again. Several packets may have left by it.
func (m *Model) provoked(f *Flow, p *packet, w path) bool {
	l, holds := m.learnt(*f)
	isProven := holds && l.Proven != 0 && l.Way == flagAsRouted
	wasRefused := f.Attempt&attemptRefused != 0 && f.Flags&flagWay == 0
	if f.Flags&flagAsRouted == 0 && !wasRefused || m.sinceSent(*f) >= m.Ticks(3)/4 || p.has(FlagACK) || p.seq != f.RcvNxt || isProven ||
		!m.mayLearn(*f) || m.observes(m.Host.Interfaces[f.Interface]) || !w.managed || m.observes(w.record) {
		return false
	}
	if f.Flags&flagOnTrial != 0 {
		f.SndUna, f.Attempt = f.SndNxt, f.Attempt&^(attemptSent|attemptUnheard)
	}
	f.Attempt |= attemptRefused | attemptAgain
	f.Flags &^= flagWay
	m.event(bpf.DatapathEventEVENT_REFUSED_CONTESTED)
	return true
}

// resetHandshake: who scans has got the SYN-ACK, by the rule's way.
func (m *Model) resetHandshake(f Flow, p *packet, w path) {
	if _, holds := m.learnt(f); !holds && f.Attempt&(attemptChoice|attemptAgain) == attemptChoice && f.Flags&flagWay == 0 && w.of(f) && p.seq == f.RcvNxt {
		delete(m.Begun, m.senderKey(f))
	}
}

// putOnTrial: no handshake chose the way of a connection, or one that went by several.
func (m *Model) putOnTrial(f *Flow, p *packet, attempt uint8) {
	f.Flags |= flagOnTrial
	f.Attempt, f.Sent = attempt, uint16(m.Now)
	if f.Flags&flagNoSocket == 0 {
		f.SndNxt, f.RcvNxt = p.ack, p.seq
		if socket, ok := m.Sockets.Connections[f.Tuple]; ok {
			f.SndNxt = socket.Written
		}
	}
	f.SndUna = f.SndNxt
}

// trialGoesOn: a segment leaves of a connection of which it is not known by which way its replies arrive. Data that are sent
// again take the next way, as does the ACK of what the peer sends again.
func (m *Model) trialGoesOn(f *Flow, p *packet, frame Frame) {
	switch {
	case f.Flags&flagOnTrial == 0 || p.flags&(FlagSYN|FlagRST) != 0:
	case int32(p.end()-f.SndNxt) > 0 || p.end() != p.seq && f.Attempt&attemptFirst != 0:
		f.Sent = uint16(m.Now)
		f.Attempt &^= attemptFirst
	case p.end() != p.seq || f.Attempt&attemptUnheard != 0:
		if m.tryNextWay(f, p, frame) {
			f.SndUna = f.SndNxt
			f.Attempt &^= attemptSent | attemptUnheard
		}
	case p.ack != f.RcvNxt && f.Attempt&attemptSent == 0:
		f.Sent = uint16(m.Now)
		f.Attempt |= attemptSent
	}
}

// trialWaits: what leaves as routed, as its interface only observes, tells nothing of the way.
func (m *Model) trialWaits(f *Flow, p *packet) {
	record, known := m.Host.Interfaces[f.Interface]
	if f.Flags&flagOnTrial != 0 && p.flags&(FlagSYN|FlagRST) == 0 && known && record.Ifindex == f.Ifindex && m.observes(record) {
		f.SndUna, f.Attempt = f.SndNxt, attemptFirst
	}
}

// judge ends a trial: what was sent is acknowledged, or the peer goes on ten seconds after an ACK of what it sent.
func (m *Model) judge(f *Flow, p *packet) {
	switch {
	case f.Flags&flagOnTrial == 0 || !p.has(FlagACK):
	case p.ack != f.SndUna && inSequence(p.ack, f.SndUna, f.SndNxt):
		m.learn(*f, true)
		f.Flags &^= flagOnTrial
	case p.ack != f.SndNxt:
	case int32(p.seq-f.RcvNxt) < 0: // sent again, or asked whether we are there: our ACK may not have arrived
		if m.sinceSent(*f) >= m.Ticks(3)/4 {
			f.Attempt = f.Attempt&^attemptSent | attemptUnheard
		}
	case p.payload > 0 && f.Attempt&attemptSent != 0 && m.sinceSent(*f) >= m.Ticks(10):
		f.Flags &^= flagOnTrial
	}
}

// hear: what was learnt of a sender is in use.
func (m *Model) hear(l *Learnt) {
	if m.since(l.Heard) >= m.Ticks(30) {
		l.Heard = m.Now
	}
}

// learn: the way of a flow has completed a handshake, or brought data, by itself or after others. By itself it is proven, as
// who has not got the SYN-ACK cannot answer it.
func (m *Model) learn(f Flow, withData bool) {
	again, way := f.Attempt&attemptAgain != 0, f.Flags&flagWay
	proves := withData || !again
	if f.Attempt&(attemptChoice|attemptAstray) != attemptChoice || f.Flags&flagSettled != 0 && !again || !m.mayLearn(f) {
		return
	}
	l, holds := m.learnt(f)
	key, isOld := m.senderKey(f), m.since(l.Since) >= m.Ticks(60)
	if !holds {
		delete(m.Begun, key)
	}
	if way == 0 && !proves {
		return
	}
	switch {
	case holds && l.Way == way:
		m.hear(&l)
		if proves {
			l.Proven = 1
		}
		if again && isOld {
			l.Settled = 1
		}
		m.Ways[key] = l
		return
	case holds && l.Way == 0:
		return // for good
	case holds && again && l.Proven != 0 && way == 0:
		l.Settled = 0 // the rule's way is tried once more
		m.Ways[key] = l
		return
	case holds && again && l.Proven != 0 && m.since(l.Heard) < m.Ticks(60):
		return // the others go on by theirs
	case !holds:
		l = Learnt{}
	}
	proven := l.Proven
	if proves {
		proven = 1
	}
	l = Learnt{Since: m.Now, Heard: m.Now, Tried: m.Now, Way: way, Downs: m.downs(f), Proven: proven}
	l.Gateway, _ = m.usable(f.Gateway, f.Ifindex)
	if way == 0 {
		l.Settled = 1
	}
	m.Ways[key] = l
	m.event(map[uint16]Event{
		0: bpf.DatapathEventEVENT_LEARNT_RULE, flagLastHop: bpf.DatapathEventEVENT_LEARNT_LAST_HOP,
		flagAsRouted: bpf.DatapathEventEVENT_LEARNT_AS_ROUTED,
	}[way])
}
