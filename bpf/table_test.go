// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"testing"

	"replypath/bpf"
)

// crowd is this many networks that differ in their peer.
func crowd(n network, count int) []network {
	crowd := make([]network, count)
	for i := range crowd {
		crowd[i] = n
		address := n.peer.AsSlice()
		binary.BigEndian.PutUint16(address[len(address)-2:], uint16(1000+i))
		crowd[i].peer, _ = netip.AddrFromSlice(address)
	}
	return crowd
}

// newcomer is a network whose peer is in no crowd.
func newcomer(n network) network {
	n.peer = n.stranger
	return n
}

// enterings are the flow tables, and what enters a flow there.
var enterings = []struct {
	name    string
	message message
	entries func(tables) entries
	admits  func(b *bed, n network, answered bpf.DatapathFlow) effect // of which the handshake is there
	failed  bpf.DatapathEvent
}{
	{"half-open", syn, func(t tables) entries { return t.HalfOpen },
		func(b *bed, n network, _ bpf.DatapathFlow) effect { return b.starts(n, syn, b.replication) }, eventInsertFailedHalfOpen},
	{"established", finalAck, func(t tables) entries { return t.Established },
		func(_ *bed, _ network, answered bpf.DatapathFlow) effect { return establishes(answered, finalAck) }, eventInsertFailedHalfOpen + 1},
	{"connectionless", udp{}, func(t tables) entries { return t.Connectionless },
		func(b *bed, n network, _ bpf.DatapathFlow) effect { return b.admits(n, udp{}, b.replication) }, eventInsertFailedConnectionless},
}

// TestTableEntered: a new flow takes the place of an idle one that its tuple has. Another flow that has its digest stays,
// which is counted, and neither is taken for the other.
func TestTableEntered(t *testing.T) {
	for _, e := range enterings {
		under(t, e.name, eachFamily, func(t *testing.T, b *bed, n network) {
			answered := b.answered(n, b.replication, 0)
			handshake := func(t tables) {
				if e.name == "established" {
					halfOpen(answered)(t)
				}
			}
			before := func(f bpf.DatapathFlow) func(tables) {
				return func(t tables) { e.entries(t)[n.tuple(e.message)] = f }
			}
			idle := b.flow(n, e.message, b.backup, idleEstablished+1)
			b.put(before(idle), handshake)
			b.arrives(n, e.message, e.admits(b, n, answered))

			b.put(before(b.flow(newcomer(n), e.message, b.backup, 0)), handshake)
			b.arrives(n, e.message, unread(e.failed))
			if verdict, _, _ := b.exec(egress(b.production, n.out(b.production, tcp{flags: "A"}))); verdict != pass {
				t.Errorf("verdict %d for the other flow's reply", verdict)
			}
		})
	}
	eachFamily(t, func(t *testing.T, b *bed, n network) { // a stray is none that is counted
		b.put(func(t tables) { t.HalfOpen[n.tuple(syn)] = b.flow(newcomer(n), syn, b.backup, 0) })
		b.arrives(n, tcp{flags: "A"}, unread(eventIgnoredNoSocket).and(marked(b, n, tcp{})))
	})
}

// TestTableReplaced: a handshake takes the place of a stray, and of no connection; the connection that follows takes that
// of the one before.
func TestTableReplaced(t *testing.T) {
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		for _, before := range []func(tables){
			establishedFlow(b.flow(n, tcp{}, b.backup, 0)), establishedFlow(b.closing(n, b.backup, 0)), halfOpen(b.stray(n, syn, b.backup, 0)),
		} {
			b.put(before)
			b.arrives(n, syn, b.starts(n, syn, b.replication))
			answered := b.answered(n, b.replication, 0)
			b.put(before, halfOpen(answered))
			b.arrives(n, finalAck, establishes(answered, finalAck))
		}
	})
}

// TestTableFull: where all places but the last of each bucket are of connections, what begins a flow begins it.
func TestTableFull(t *testing.T) {
	eachFamilyOn(t, twoBuckets, func(t *testing.T, b *bed, n network) {
		var fill []func(tables)
		for i, other := range crowd(n, 2*int(bpf.DatapathPlacePLACES_VALIDATED)) {
			fill = append(fill, establishedFlow(b.flow(other, tcp{}, b.replication, uint32(3000-100*i))))
		}
		for _, m := range []message{syn, udp{}} {
			b.put(fill...)
			b.arrives(n, m, b.starts(n, m, b.replication))
		}
		b.put(fill...) // a stray has room, and its mark none
		b.arrives(n, tcp{flags: "A"}, unread(eventIgnoredNoSocket).and(halfOpen(b.stray(n, tcp{}, b.replication, 0))))
	})
}

// closing is a connection that the host has closed.
func (b *bed) closing(n network, via nic, age uint32) bpf.DatapathFlow {
	f := b.flow(n, tcp{}, via, age)
	f.State = stateClosing
	return f
}

// TestGuestEndsNothing: of a guest above the interface that has the host's address, with a MAC of its own.
func TestGuestEndsNothing(t *testing.T) {
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		b.put(establishedFlow(b.remote(n, 0)))
		b.leaves(n, syn, nothing, sourceMAC(neighbour))
		for _, flags := range []string{"FA", "R"} {
			b.exec(egress(b.production, n.out(b.production, tcp{flags: flags, seq: 2000, ack: 5000}, sourceMAC(neighbour))))
			f, err := b.Established.Find(b.Seeds.Digest(n.tuple(syn)))
			b.must(err)
			if f == nil || f.IsClosing() {
				t.Errorf("after %s of a guest: %+v", flags, f)
			}
		}
	})
}

// TestClosing: the replies of a connection that ends go on going by it, while the next handshake of its tuple stands beside
// it and comes by another way. The connection that follows takes its place.
func TestClosing(t *testing.T) {
	for name, end := range map[string]func(*bed, network) run{
		"the host closes": func(b *bed, n network) run {
			return egress(b.production, n.out(b.production, tcp{flags: "FA", seq: 2000, ack: 5000}))
		},
		"the peer resets": func(b *bed, n network) run { return ingress(b.backup, n.in(b.backup, tcp{flags: "R", seq: 5000})) },
	} {
		under(t, name, eachFamily, func(t *testing.T, b *bed, n network) {
			wantReply := func(m tcp, by nic) {
				t.Helper()
				verdict, frame, _ := b.exec(egress(b.production, n.out(b.production, m)))
				if verdict != redirect || !bytes.Equal(frame[:6], by.router) {
					t.Errorf("verdict %d, to %x; want it to leave by %s", verdict, frame[:6], by.Name)
				}
			}
			wantEntries := func(via nic, closing, handshake bool) {
				t.Helper()
				content, _ := b.snapshot()
				f, err := b.Established.Find(b.Seeds.Digest(n.tuple(syn)))
				b.must(err)
				if f == nil || f.Ifindex != via.Index || f.IsClosing() != closing || len(content.Established) != 1 || len(content.HalfOpen) > 0 != handshake {
					t.Errorf("established: %+v of %v, half-open: %v", f, content.Established, content.HalfOpen)
				}
			}
			b.put(establishedFlow(b.remote(n, 0)))
			b.exec(end(b, n))
			wantEntries(b.replication, true, false)
			last := tcp{flags: "A", seq: 2000, ack: 5001}
			wantReply(last, b.replication)
			b.exec(ingress(b.backup, n.in(b.backup, syn)))
			wantEntries(b.replication, true, true)
			wantReply(last, b.replication)
			wantReply(synAck, b.backup)
			b.exec(ingress(b.backup, n.in(b.backup, finalAck)))
			wantEntries(b.backup, false, false)
			wantReply(tcp{flags: "A", seq: ourISN + 1, ack: peerISN + 1}, b.backup)
			b.exec(egress(b.production, n.out(b.production, tcp{flags: "FA", seq: ourISN + 1, ack: peerISN + 1})))
			b.exec(egress(b.production, n.out(b.production, syn)))
			if content, _ := b.snapshot(); len(content.Established)+len(content.HalfOpen) > 0 {
				t.Errorf("what the host opens anew leaves %v and %v", content.Established, content.HalfOpen)
			}
		})
	}
}

// TestAssured: datagrams are a conversation from the second question after an answer on. A question that is answered,
// once or more often, is none, nor are pings, which the kernel answers whoever sends them.
func TestAssured(t *testing.T) {
	eachConnectionless(t, func(t *testing.T, b *bed, n network, m message, _ uint32) {
		in, out := ingress(b.replication, n.in(b.replication, m)), egress(b.replication, n.out(b.replication, answer(m)))
		for i, step := range []struct {
			run
			assured bool
		}{{in, false}, {in, false}, {out, false}, {out, false}, {in, true}, {out, true}, {in, true}} {
			b.exec(step.run)
			content, _ := b.snapshot()
			if f, ok := content.Connectionless[n.tuple(m)]; !ok || f.Flags&flagAssured != 0 != (step.assured && assured(m) != 0) {
				t.Errorf("after step %d: %+v, found %v", i, f, ok)
			}
		}
	})
}

// TestLasts: what a table counts as lasting.
func TestLasts(t *testing.T) {
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		open, question := b.flow(n, tcp{}, b.replication, 0), b.flow(n, udp{}, b.replication, 0)
		question.Flags &^= flagAssured
		closing, reset := open, open
		closing.State |= stateClosing
		reset.Flags |= flagReset
		for _, c := range []struct {
			table *bpf.FlowTable
			flow  bpf.DatapathFlow
			lasts bool
		}{
			{b.HalfOpen, b.flow(n, syn, b.replication, 0), true},
			{b.Established, open, true},
			{b.Established, closing, false},
			{b.Established, reset, false},
			{b.Connectionless, b.flow(n, udp{}, b.replication, 0), true},
			{b.Connectionless, question, false},
		} {
			if lasts := c.table.Lasts(&c.flow); lasts != c.lasts {
				t.Errorf("table %d: lasts %v, %+v", c.table.ID, lasts, c.flow)
			}
		}
	})
}

// What a program finds while another CPU writes: states that last for a moment.

// TestFragmentMeanwhile: what is known of a fragment's packet may be of the next one already, which has another peer,
// or asked another address.
func TestFragmentMeanwhile(t *testing.T) {
	m := udp{}
	for name, other := range map[string]func(network) network{
		"another peer":    newcomer,
		"another address": func(n network) network { return n.at(n.other) },
	} {
		under(t, name, eachFamily, func(t *testing.T, b *bed, n network) {
			frames, next := n.inPieces(b.production, 1), other(n)
			b.put(connectionlessFlow(b.flow(n, m, b.replication, 0)), connectionlessFlow(b.flow(next, m, b.backup, 0)))
			b.exec(egress(b.production, frames.first))
			b.rewriteFragments(b.Seeds.Digest(next.tuple(m)))
			b.run(egress(b.production, frames.later), unread(eventUnparsedFragment))
		})
	}
}

// rewriteFragments has all that is known of fragments be about this flow.
func (b *bed) rewriteFragments(digest uint64) {
	b.t.Helper()
	known, err := b.Leads(bpf.DatapathLeadKindLEAD_PARTS)
	b.must(err)
	b.must(b.ChangeLeads(func(l *bpf.DatapathLead) { l.Digest = digest }, bpf.DatapathLeadKindLEAD_PARTS))
	if len(known) != 1 {
		b.t.Fatalf("%d packets come in fragments, want 1", len(known))
	}
}

// TestEnteredMeanwhile: two CPUs may find no flow for the same tuple. The one that comes second leaves the first
// one's entry alone, unless that is over.
func TestEnteredMeanwhile(t *testing.T) {
	m := udp{}
	for name, age := range map[string]uint32{"live": 0, "idle": idleConnectionless + 1} {
		t.Run(name, func(t *testing.T) {
			eachFamilyOn(t, interrupted, func(t *testing.T, b *bed, n network) {
				first := b.flow(n, m, b.backup, age)
				first.Flags &^= flagAssured
				b.meanwhile(n, m, first)
				want := b.admits(n, m, b.replication)
				if age == 0 {
					want = unread(eventInsertFailedConnectionless)
					want.tables = connectionlessFlow(first)
				}
				b.arrives(n, m, want)
			})
		})
	}
}

// meanwhile has another CPU enter a flow under the digest of the message's tuple.
func (b *bed) meanwhile(n network, m message, f bpf.DatapathFlow) {
	b.t.Helper()
	b.must(b.Meanwhile(b.Seeds.Digest(n.tuple(m)), f))
	b.t.Cleanup(func() { b.must(b.Meanwhile(0, f)) })
}
