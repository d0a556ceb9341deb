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
type Ends = bpf.Ends

// EndsOf are those of a tuple.
func EndsOf(t Tuple) Ends { return Ends{Peer: t.Peer, Self: t.Self} }

func endsKey(t Tuple) LeadKey {
	return LeadKey{bpf.DatapathLeadKindLEAD_ENDS, Tuple{Peer: t.Peer, Self: t.Self}}
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

// relate: a flow proves by which path its peer comes to the own address, unless one does that goes on. A connection
// proves more than datagrams; and of what proves as much, what came by the interface of the address goes before.
func (m *Model) relate(table Table, t Tuple) {
	f := m.table(table)[t]
	kept, known := m.Originated[EndsOf(t)]
	other, lives := m.open(Table(kept.Table), kept.With)
	owner, _, _ := m.sourceInterface(netip.AddrFrom16(t.Self).Unmap())
	switch {
	case f.Flags&flagAsRouted != 0, known && kept.With == t:
		return
	case !lives, table == tableEstablished && Table(kept.Table) == tableConnectionless:
	case Table(kept.Table) == table && other.Interface != f.Interface && f.Interface == owner:
	default:
		return
	}
	kept.With, kept.Table = t, uint8(table)
	m.Originated[EndsOf(t)] = kept
}

// relateQuestion: somebody here takes the datagrams of a flow, which may have been answered a second ago.
func (m *Model) relateQuestion(t Tuple, isAnswered bool) {
	if t.Protocol == protoUDP && m.Connectionless[t].Flags&flagAsRouted == 0 {
		if last, known := m.Leads[endsKey(t)]; !known || last.Tuple != t {
			m.Leads[endsKey(t)] = m.askedLead(t)
		}
	}
	if isAnswered && !isPing(t) {
		m.relate(tableConnectionless, t)
	}
}

// relateAnswer: a packet answers what the host began. One that may be forged counts by another path only when the path of
// before cannot be used, or has been silent for a while.
func (m *Model) relateAnswer(t Tuple, w path, isProof bool) {
	if reasons := unusable(w); len(reasons) > 0 {
		m.oneOf(reasons)
		return
	}
	f := Flow{Tuple: t}
	if m.takeAnew(&f, w); f.Flags&flagAsRouted != 0 {
		return
	}
	shown := bpf.DatapathPath{Ifindex: f.Ifindex, Interface: f.Interface, Gateway: f.Gateway, Mac: f.Mac, Flags: f.Flags}
	kept := m.Originated[EndsOf(t)]
	before := kept.Answered
	isSame := before.Ifindex == shown.Ifindex && before.Gateway == shown.Gateway &&
		(before.Mac == shown.Mac || shown.Gateway != 0 && (before.Flags|shown.Flags)&flagLastHop == 0)
	switch {
	case isSame && before.Flags == shown.Flags:
	case !isSame && !isProof && m.within(kept.Heard, bpf.DatapathIdleSecondsIDLE_CONNECTIONLESS) &&
		m.isUsable(&Flow{Interface: before.Interface, Ifindex: before.Ifindex}):
		return
	default:
		kept.Answered = shown
	}
	kept.Heard = m.Now
	m.Originated[EndsOf(t)] = kept
}

// relatedPath is the path by which the peer of a tuple comes to the own address, if anything proves one. A question alone
// does so for datagrams by its own port, and for a while for those to its peer's.
func (m *Model) relatedPath(kept Originated, t Tuple) (bpf.DatapathPath, bool) {
	with, goesOn := m.open(Table(kept.Table), kept.With)
	isForged := goesOn && Table(kept.Table) == tableConnectionless // perhaps
	if kept.Answered.Ifindex != 0 && (!goesOn && m.within(kept.Heard, bpf.DatapathIdleSecondsIDLE_OUTBOUND) ||
		isForged && m.within(kept.Heard, bpf.DatapathIdleSecondsIDLE_CONNECTIONLESS)) {
		answered := kept.Answered
		answered.Flags &= flagGateway | flagLastHop
		return answered, true
	}
	if goesOn {
		return wayOf(with), true
	}
	lead, known := m.Leads[endsKey(t)]
	asked := lead.Tuple
	f, ok := m.open(tableConnectionless, asked)
	isRecent := asked.PeerPort == t.PeerPort && m.within(f.Seen, bpf.DatapathIdleSecondsIDLE_QUESTION)
	return wayOf(f), known && ok && t.Protocol == protoUDP && (asked.SelfPort == t.SelfPort || isRecent)
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
