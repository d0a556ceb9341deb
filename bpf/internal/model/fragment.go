package model

import (
	"net/netip"

	"replypath/bpf"
)

// fragmentKey is what the fragments of a packet have in common.
type fragmentKey struct {
	from, to netip.Addr
	protocol uint8
	id       uint32
}

// fragment is what was decided about the first one.
type fragment struct {
	table   map[Tuple]Flow
	tuple   Tuple
	outcome bpf.DatapathOutcome // a reason to stay; else OUTCOME_CORRECTED
	seen    uint32
}

func (p *packet) key() fragmentKey { return fragmentKey{p.from, p.to, p.inside, p.id} }

// decided remembers what became of a first fragment.
func (m *Model) decided(table map[Tuple]Flow, t Tuple, p *packet, outcome bpf.DatapathOutcome) {
	if p.first {
		m.Fragments[p.key()] = fragment{table, t, outcome, m.Now}
	}
}

// fragmentOut is about a later fragment that leaves: it follows the first.
func (m *Model) fragmentOut(p *packet, frame Frame) Verdict {
	first, ok := m.Fragments[p.key()]
	ok = ok && m.within(first.seen, bpf.DatapathIdleSecondsIDLE_FRAGMENT)
	f, there := first.table[first.tuple]
	if ok && there && len(m.Fragments) > 1 && m.rose(laterPart) { // another packet has its place
		delete(m.Fragments, p.key())
		ok = false
	}
	if !ok || !there {
		m.event(laterPart)
		return Verdict{}
	}
	p.protocol = first.tuple.Protocol
	if f.Ifindex == frame.Ifindex || first.outcome == bpf.DatapathOutcomeOUTCOME_CORRECTED {
		return m.reply(first.table, first.tuple, p, frame)
	}
	pair := m.pair(f, p, frame)
	m.asymmetric(first.table, first.tuple, pair, frame)
	packets, bytes := onWire(frame)
	m.count(pair, first.outcome, Count{Packets: packets, Bytes: bytes})
	return Verdict{}
}
