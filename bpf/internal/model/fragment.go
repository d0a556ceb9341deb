// SPDX-License-Identifier: Apache-2.0

package model

import (
	"net/netip"

	"replypath/bpf"
)

// FragmentKey is what the fragments of a packet have in common.
type FragmentKey struct {
	From, To netip.Addr
	Protocol uint8 // of IPv4; in IPv6 the first one alone tells
	ID       uint32
}

// Fragment is what was decided about the first one.
type Fragment struct {
	Table   Table
	Tuple   Tuple
	Outcome bpf.DatapathOutcome // a reason to stay; else OUTCOME_CORRECTED
	Seen    uint32              // ticks
}

func (p *packet) key() FragmentKey { return FragmentKey{p.from, p.to, p.inside, p.id} }

// decided remembers what became of a first fragment.
func (m *Model) decided(table Table, t Tuple, p *packet, outcome bpf.DatapathOutcome) {
	if p.first {
		m.Fragments[p.key()] = Fragment{table, t, outcome, m.Now}
	}
}

// fragmentOut is about a later fragment that leaves: it follows the first.
func (m *Model) fragmentOut(p *packet, frame Frame) Verdict {
	first, ok := m.Fragments[p.key()]
	ok = ok && m.within(first.Seen, bpf.DatapathIdleSecondsIDLE_FRAGMENT)
	f, there := m.table(first.Table)[first.Tuple]
	if first.Table == tableOriginated {
		there = true
	}
	if !ok || !there {
		m.event(laterPart)
		return Verdict{}
	}
	key := p.key()
	p.protocol = first.Tuple.Protocol
	follows := true
	if first.Table == tableOriginated {
		_, _, follows = m.originates(p, frame)
	}
	if follows && len(m.Fragments) > 1 && m.rose(laterPart) { // another packet has its place
		delete(m.Fragments, key)
		m.event(laterPart)
		return Verdict{}
	}
	if first.Table == tableOriginated {
		v, decided := m.originate(p, first.Tuple, frame, first.Outcome)
		if !decided {
			m.event(laterPart)
		}
		return v
	}
	if f.Ifindex == frame.Ifindex || first.Outcome == bpf.DatapathOutcomeOUTCOME_CORRECTED {
		return m.reply(first.Table, first.Tuple, p, frame)
	}
	pair := m.pair(f, p, frame)
	m.lose(frame)
	m.asymmetric(first.Table, first.Tuple, pair, frame)
	m.countPacket(pair, first.Outcome, frame)
	return Verdict{}
}
