// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"testing"

	"replypath/bpf"
)

// meetsStranger is the effect of a segment without an entry and without a socket.
func (b *bed) meetsStranger(n network, via nic) effect {
	e := b.strays(n, tcp{}, via)
	e.events[eventIgnoredNoSocket] = 1
	e = e.and(func(t tables) { t.Marks[b.Seeds.Digest(n.tuple(tcp{}))] = true })
	return e
}

// adopts is the effect of a segment whose socket says that the peer opened its connection.
func (b *bed) adopts(n network, via nic, m tcp, state uint8) effect {
	f := b.born(n, tcp{}, via)
	f.State, f.SndNxt = state, m.ack
	if state == stateClosing {
		f.SndNxt++ // the FIN
	}
	return effect{
		events: events{bpf.DatapathEventEVENT_ADMITTED_ESTABLISHED: 1, eventReadmittedEstablished: 1},
		tables: establishedFlow(onTrial(f, m)),
	}
}

// onTrial is a connection whose way no handshake chose, since this segment came in.
func onTrial(f bpf.DatapathFlow, m tcp) bpf.DatapathFlow {
	f.Flags |= flagOnTrial
	f.Attempt, f.Sent = attemptFirst, toldNow
	if f.Flags&flagNoSocket == 0 {
		f.RcvNxt = m.seq
	}
	f.SndUna = f.SndNxt
	return f
}

var adoptFamily = map[string]story{
	// A SYN alone may be forged.
	"a SYN that the host answers makes void what was known": func(t *testing.T, b *bed, n network) {
		b.exec(ingress(b.replication, n.in(b.replication, tcp{flags: "A"})))
		b.put(b.sent(n, tcp{}, 0), marked(b, n, tcp{}))
		b.arrives(n, syn, b.starts(n, syn, b.replication))
		b.exec(egress(b.production, n.out(b.production, synAck)))
		content, _ := b.snapshot()
		if len(content.Marks) != 0 || len(content.Outbound) != 0 {
			t.Errorf("still known of the tuple: marks %v, notes %v", content.Marks, content.Outbound)
		}
	},
	"a SYN that a guest sends with the host's address hides no connection": func(t *testing.T, b *bed, n network) {
		n = newcomer(n)
		c := accept(t, n)
		segment := tcp{flags: "A", seq: c.received, ack: c.acked}
		b.put(b.sent(n, tcp{}, 2))
		b.arrives(n, segment, effect{tables: func(t tables) { delete(t.Outbound, b.Seeds.Digest(n.tuple(tcp{}))) }})
		b.arrives(n, segment, b.adopts(n, b.replication, segment, 0))
	},
	"while answers come in, it stays known that the host asked": func(t *testing.T, b *bed, n network) {
		b.put(b.sent(n, tcp{}, idleOutbound-1))
		for range 3 {
			b.run(ingress(b.production, n.in(b.production, tcp{flags: "A"})), nothing)
			b.ageNotes(idleOutbound - 1)
		}
	},
	"what was refused is asked about again in another generation": func(t *testing.T, b *bed, n network) {
		r := ingress(b.replication, n.in(b.replication, tcp{flags: "A"}))
		b.run(r, b.meetsStranger(n, b.replication))
		b.run(r, nothing)
		b.renew()
		content, _ := b.snapshot()
		if content.Marks[b.Cut(b.Seeds.Digest(n.tuple(tcp{})))] {
			t.Error("the mark outlives its generation")
		}
		b.exec(r)
		if content, _ = b.snapshot(); !content.Marks[b.Cut(b.Seeds.Digest(n.tuple(tcp{})))] {
			t.Error("the tuple was not asked about again")
		}
	},
	"what the host sends from an unknown address is marked": func(t *testing.T, b *bed, n network) {
		b.must(b.OwnAddresses.Delete(n.self.As16()))
		b.refuses(n, udp{})
	},
}

func TestAdoptFamily(t *testing.T) { tell(t, eachFamily, adoptFamily) }
