// SPDX-License-Identifier: Apache-2.0

package model

import (
	"net/netip"

	"replypath/bpf"
)

// Originated is what is kept of an own address and a peer's, without what the datapath decides once.
type Originated struct {
	bpf.DatapathRecord
	With Tuple // the flow that the pair goes with; zero for none
}

// Ends are the addresses of a tuple.
type Ends struct{ Peer, Self [16]byte }

// EndsOf are those of a tuple.
func EndsOf(t Tuple) Ends { return Ends{Peer: t.Peer, Self: t.Self} }

const (
	proofConversation = bpf.DatapathProofPROOF_CONVERSATION
	proofAnswers      = bpf.DatapathProofPROOF_ANSWERS
	proofConnection   = bpf.DatapathProofPROOF_CONNECTION
)

func (o *Originated) proof() bpf.DatapathProof { return bpf.DatapathProof(o.Proof) }

// shownBy is the flow that shows a path, if it goes on.
func (m *Model) shownBy(o *Originated) (Flow, bool) {
	if o.proof()&proofConnection != 0 {
		return m.open(tableEstablished, o.With)
	}
	return m.open(tableConnectionless, o.With)
}

// open is the flow of a table by a tuple, if it goes on.
func (m *Model) open(table Table, t Tuple) (Flow, bool) {
	find := m.established
	if table == tableConnectionless {
		find = m.connectionless
	}
	f, ok := find(t)
	return f, ok && !closing(f) && f.Flags&flagAsRouted == 0
}

// areRelated says whether anything goes as answers to its peer go, from the address of an interface.
func (m *Model) areRelated(record Interface) bool {
	return m.Host.Related || record.Flags&interfaceStrong != 0
}

// showsPath says whether a flow came by the interface of its own address, and shows by which path its peer comes to that.
func (m *Model) showsPath(f Flow) bool {
	id := uint16(m.Host.OwnAddresses[netip.AddrFrom16(f.Tuple.Self).Unmap()] >> ownInterfaceBits)
	owner, ok := m.Host.Interfaces[id]
	return f.Flags&flagAsRouted == 0 && ok && id == f.Interface && m.areRelated(owner)
}

// RecentKey is where the last connection of two addresses is kept, or their last question: others may stand there as well.
type RecentKey struct {
	Place      uint32
	IsQuestion bool
}

func (m *Model) recentKey(t Tuple, isQuestion bool) RecentKey {
	return RecentKey{m.PlaceOf(EndsOf(t)), isQuestion}
}

// beginRelation: a connection begins, or somebody here takes a question by UDP.
func (m *Model) beginRelation(f Flow, isQuestion bool) {
	if m.showsPath(f) && (!isQuestion || f.Tuple.Protocol == protoUDP) {
		m.Recent[m.recentKey(f.Tuple, isQuestion)] = f.Tuple
	}
}

// relate: a flow has gone on for a second.
func (m *Model) relate(table Table, t Tuple) {
	f, proof := m.table(table)[t], proofConnection
	if table == tableConnectionless {
		proof = proofConversation
		switch {
		case f.Flags&flagNoSocket != 0 || isPing(t):
			return
		case f.State&stateReplied == 0:
			m.beginRelation(f, true)
			return
		}
	}
	if f.State&stateAsymmetric == 0 || f.Flags&flagOnTrial != 0 || !m.showsPath(f) {
		return
	}
	kept, known := m.Originated[EndsOf(t)]
	shown := hopOf(f)
	isSame := known && kept.Path == shown
	isNew := !isSame || kept.proof() < proof || m.since(kept.Heard) >= m.Ticks(1)
	if known && (!isNew || !m.takesPlace(&kept, f, proof)) {
		return
	}
	switch {
	case isSame && kept.proof()&proof != 0 && kept.With == t:
	case isSame:
		kept.Proof = uint8(proof | kept.proof()&proofAnswers)
	default:
		kept.Proof = uint8(proof)
	}
	kept.Path, kept.With, kept.Heard = shown, t, m.Now
	m.Originated[EndsOf(t)] = kept
}

// takesPlace says whether what a flow shows counts in place of what another has shown: what proves more, and what takes the
// place of what is over, or came by another interface than that of the address.
func (m *Model) takesPlace(kept *Originated, f Flow, proof bpf.DatapathProof) bool {
	span := bpf.DatapathIdleSeconds(0)
	switch {
	case kept.proof()&proofConnection != 0:
		span = bpf.DatapathIdleSecondsIDLE_CALL
	case kept.proof()&proofAnswers != 0:
		span = bpf.DatapathIdleSecondsIDLE_CONNECTIONLESS
	}
	alike := kept.proof() < 2*proof // by the best of what shows it
	if proof > kept.proof() || alike && kept.With == f.Tuple {
		return true
	}
	if other, goesOn := m.shownBy(kept); goesOn {
		return alike && other.Interface != f.Interface
	}
	return alike || !m.within(kept.Heard, span)
}

// relateAnswer: a packet answers what the host began. One that may be forged counts by another path only when the path of
// before cannot be used, or has been silent for a while.
func (m *Model) relateAnswer(t Tuple, w path, isTCP bool) {
	if reasons := unusable(w); len(reasons) > 0 {
		m.oneOf(reasons)
		return
	}
	f := Flow{Tuple: t}
	m.takeAnew(&f, w)
	id, owner, ok := m.sourceInterface(netip.AddrFrom16(t.Self).Unmap())
	kept, known := m.Originated[EndsOf(t)]
	if f.Flags&flagAsRouted != 0 || !m.areRelated(owner) || !ok || !known {
		return
	}
	shown := bpf.DatapathPath{Ifindex: f.Ifindex, Interface: f.Interface, Gateway: f.Gateway, Mac: f.Mac, Flags: f.Flags}
	isSame := isSameWay(kept.Path, shown) && kept.Path.Flags == shown.Flags
	switch {
	case isSame && kept.proof()&proofAnswers != 0:
	case isSame && kept.proof()&proofConnection != 0:
		kept.Proof |= uint8(proofAnswers)
		kept.Path = shown
	case m.givesWay(&kept, shown, isTCP, id):
		kept.Proof, kept.Path = uint8(proofAnswers), shown
		if !isSame {
			kept.With = Tuple{}
		}
	default:
		return
	}
	kept.Heard = m.Now
	m.Originated[EndsOf(t)] = kept
}

func isSameWay(known, shown bpf.DatapathPath) bool {
	return known.Ifindex == shown.Ifindex && known.Gateway == shown.Gateway &&
		(known.Mac == shown.Mac || shown.Gateway != 0 && (known.Flags|shown.Flags)&flagLastHop == 0)
}

// givesWay says whether an answer by a path takes the place of what is known.
func (m *Model) givesWay(kept *Originated, shown bpf.DatapathPath, isTCP bool, owner uint16) bool {
	switch f, goesOn := m.shownBy(kept); {
	case goesOn && kept.proof()&proofConnection != 0:
		return false
	case goesOn && kept.proof() == proofConversation && f.Interface == owner:
		return isTCP || shown.Interface == owner
	}
	span := bpf.DatapathIdleSecondsIDLE_CONNECTIONLESS
	if kept.proof()&proofConnection != 0 {
		span = bpf.DatapathIdleSecondsIDLE_CALL
	}
	return kept.proof() < proofAnswers || isTCP || isSameWay(kept.Path, shown) || !m.within(kept.Heard, span) ||
		!m.isUsable(&Flow{Interface: kept.Path.Interface, Ifindex: kept.Path.Ifindex})
}

// relatedPath is the path by which the peer of a tuple comes to the own address, if anything shows one: what goes on for longer
// than what has just begun. Who comes by another interface asks nothing by that of the address.
func (m *Model) relatedPath(kept Originated, t Tuple) (bpf.DatapathPath, bool) {
	with, goesOn := m.shownBy(&kept)
	isShown := kept.proof()&proofAnswers != 0 && m.within(kept.Heard, bpf.DatapathIdleSecondsIDLE_OUTBOUND) ||
		kept.proof() == proofConnection && m.within(kept.Heard, bpf.DatapathIdleSecondsIDLE_CALL)
	isFresh := kept.proof()&proofConnection == 0 && m.within(kept.Heard, bpf.DatapathIdleSecondsIDLE_CONNECTIONLESS)
	if (!goesOn || isFresh) && isShown && kept.Path.Interface == kept.To {
		shown := kept.Path
		shown.Flags &= flagGateway | flagLastHop
		return shown, true
	}
	if goesOn && with.Interface == kept.To {
		return wayOf(with), true
	}
	f, ok := m.recentConnection(t)
	if !ok && !isShown {
		f, ok = m.recentQuestion(t)
	}
	return wayOf(f), ok && f.Interface == kept.To
}

func (m *Model) recentConnection(t Tuple) (Flow, bool) {
	f, ok := m.Established[m.Recent[m.recentKey(t, false)]]
	span := bpf.DatapathIdleSecondsIDLE_ESTABLISHED
	if closing(f) {
		span = bpf.DatapathIdleSecondsIDLE_CALL
	}
	return f, ok && EndsOf(f.Tuple) == EndsOf(t) && f.Flags&flagAsRouted == 0 && m.within(f.Seen, span)
}

// recentQuestion is what a datagram may answer: by the port that was asked, or soon after to the port of one that was asked there.
func (m *Model) recentQuestion(t Tuple) (Flow, bool) {
	last, ok := m.open(tableConnectionless, m.Recent[m.recentKey(t, true)])
	if !ok || EndsOf(last.Tuple) != EndsOf(t) || t.Protocol != protoUDP || last.Tuple.SelfPort == t.SelfPort {
		return last, ok && EndsOf(last.Tuple) == EndsOf(t) && t.Protocol == protoUDP
	}
	asked := t
	asked.SelfPort = last.Tuple.SelfPort
	its, ok := m.open(tableConnectionless, asked)
	return its, ok && m.within(its.Seen, bpf.DatapathIdleSecondsIDLE_QUESTION)
}

func hopOf(f Flow) bpf.DatapathPath {
	by := wayOf(f)
	by.Flags = f.Flags & uint16(bpf.DatapathFlowFlagsFLOW_HOP)
	return by
}

func wayOf(f Flow) bpf.DatapathPath {
	return bpf.DatapathPath{Ifindex: f.Ifindex, Interface: f.Interface, Gateway: f.Gateway, Mac: f.Mac, Flags: f.Flags & (flagGateway | flagLastHop)}
}

// relatedNextHop is the MAC that a packet of such a path goes to.
func (m *Model) relatedNextHop(t Tuple, by bpf.DatapathPath, record Interface) (mac MAC, found bool) {
	if record.Flags&interfaceBare != 0 {
		return MAC{}, true
	}
	mac, found = m.nextHop(Flow{Tuple: t, Ifindex: by.Ifindex, Gateway: by.Gateway, Mac: by.Mac, Flags: by.Flags}, record)
	return mac, found && !badMAC(path{mac: mac})
}
