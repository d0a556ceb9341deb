// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"errors"
	"net/netip"
	"slices"
	"testing"

	"replypath/bpf"
	"replypath/test/await"
)

const flagAlternates = uint16(bpf.DatapathFlowFlagsFLOW_ALTERNATES)

// eachRepair runs a test for both families, with an empty table of who asked.
func eachRepair(t *testing.T, repair bpf.DatapathSourceRepair, f func(*testing.T, *bed, network)) {
	t.Helper()
	for _, n := range networks {
		t.Run(n.name, func(t *testing.T) {
			for port := range uint16(2) { // servers at what is asked
				defer closeSocket(t, listenUDP(t, netip.AddrPortFrom(netip.IPv6Unspecified(), selfPort+port)))
			}
			b := newBed(t, normal)
			b.must(errors.Join(b.ForgetLeads(), b.ForgetNotes()))
			b.repair(repair)
			f(t, b, n)
		})
	}
}

// rewriteAsked has everybody have asked by this flow.
func (b *bed) rewriteAsked(digest uint64) {
	b.t.Helper()
	b.must(b.ChangeLeads(func(l *bpf.DatapathLead) { l.Digest = digest }, leadAsker))
}

// askedBy are the flows by which each asker asked last, by digest.
func (b *bed) askedBy() (digests []uint64) {
	b.t.Helper()
	known, err := b.Leads(leadAsker)
	b.must(err)
	for _, lead := range known {
		digests = append(digests, lead.Digest)
	}
	slices.Sort(digests)
	return digests
}

// wantBegun wants it to be known, or not, that the peer answered what the host began, for wildcard sockets.
func (b *bed) wantBegun(n network, m message, want bool) {
	b.t.Helper()
	asker := n.tuple(m)
	asker.Self, asker.Protocol = [16]uint8{}, 0
	notes, err := b.Notes()
	b.must(err)
	_, got := notes[b.Seeds.LeadKey(asker, leadAsker)]
	await.Same(b.t, "known that "+n.peer.String()+" answered what the host began", want, got)
}

func (b *bed) wantAsked(want ...bpf.DatapathTuple) {
	b.t.Helper()
	var digests []uint64
	for _, tuple := range want {
		digests = append(digests, b.Seeds.Digest(tuple))
	}
	slices.Sort(digests)
	await.Same(b.t, "asked by", digests, b.askedBy())
}

// wantWatched wants the loader to be told, or not, that a wildcard socket was asked, and forgets it.
func (b *bed) wantWatched(want bool) {
	b.t.Helper()
	known, err := b.Leads(leadWatched)
	b.must(errors.Join(err, b.ForgetLeads(leadWatched)))
	_, got := known[uint64(leadWatched)]
	await.Same(b.t, "the loader is told that a wildcard socket was asked", want, got)
}

// at is the network seen from another of the host's addresses.
func (n network) at(self netip.Addr) network {
	n.self = self
	return n
}

func (b *bed) question(n network, m message) {
	b.t.Helper()
	b.exec(ingress(b.replication, n.in(b.replication, m)))
}

func (b *bed) flags(n network) uint16 {
	b.t.Helper()
	content, _ := b.snapshot()
	flow, found := content.Connectionless[n.tuple(udp{})]
	if !found {
		b.t.Errorf("no flow to %s", n.self)
	}
	return flow.Flags
}

// speaks has the host send to the peer, from the address that the route picks.
func (b *bed) speaks(n network, m message) {
	b.t.Helper()
	b.exec(egress(b.production, n.out(b.production, m)))
}

// TestAskedBegun: where the host began with a peer and was answered, no question of that peer's to another address
// changes by which tuple they talk, for as long as it is known who began.
func TestAskedBegun(t *testing.T) {
	for name, repair := range map[string]bpf.DatapathSourceRepair{
		"on":    repairOn,
		"watch": bpf.DatapathSourceRepairREPAIR_WATCH,
	} {
		t.Run(name, func(t *testing.T) {
			eachRepair(t, repair, func(t *testing.T, b *bed, n network) {
				b.speaks(n, udp{})
				b.wantAsked()
				b.question(n, udp{}) // its answer
				b.wantBegun(n, udp{}, true)
				b.question(n.at(n.other), udp{})
				b.wantAsked()
				b.wantWatched(false)
				if b.flags(n.at(n.other))&flagAlternates != 0 {
					t.Error("one address is asked: this is no alternation")
				}
				b.forget(n.at(n.other))
				b.ageNotes(idleOutbound - 60)
				b.question(n.at(n.other), udp{})
				b.wantAsked()
				b.forget(n.at(n.other))
				b.ageNotes(61)
				b.question(n.at(n.other), udp{})
				b.wantAsked(n.at(n.other).tuple(udp{}))
				b.wantWatched(repair == bpf.DatapathSourceRepairREPAIR_WATCH)
			})
		})
	}
}

// forget takes the flow of datagrams out, as the loader does.
func (b *bed) forget(n network) {
	b.t.Helper()
	b.must(b.Connectionless.Delete(b.Seeds.Digest(n.tuple(udp{}))))
}

// age has so many seconds pass without a question by these flows of datagrams.
func (b *bed) age(seconds uint32, flows ...network) {
	b.t.Helper()
	for _, n := range flows {
		flow, err := b.Connectionless.Find(b.Seeds.Digest(n.tuple(udp{})))
		b.must(err)
		flow.Seen -= b.Seconds(seconds)
		b.must(b.AddFlow(b.Connectionless, *flow))
	}
}

func (b *bed) ageNotes(seconds uint32) {
	b.t.Helper()
	notes, err := b.Notes()
	b.must(err)
	for _, note := range notes {
		note.Sent -= b.Seconds(seconds)
		if note.Heard != 0 {
			note.Heard -= b.Seconds(seconds)
		}
		b.must(b.Outbound.Put(&note))
	}
}

// TestAsked: what is entered of who asked, where that is wanted.
func TestAsked(t *testing.T) {
	tell(t, func(t *testing.T, f story) { eachRepair(t, repairOn, f) }, map[string]story{
		"two addresses are asked in turn": func(t *testing.T, b *bed, n network) {
			other := n.at(n.other)
			b.question(n, udp{})
			b.wantAsked(n.tuple(udp{}))
			b.question(n, udp{})
			if b.flags(n)&flagAlternates != 0 {
				t.Error("one address is asked: this is no alternation")
			}
			for _, last := range []network{other, n, other, other, n} {
				b.question(last, udp{})
				b.wantAsked(last.tuple(udp{}))
			}
			if b.flags(n)&b.flags(other)&flagAlternates == 0 {
				t.Errorf("flags %#x and %#x", b.flags(n), b.flags(other))
			}
			// Another port of the peer's, or of ours, is another conversation.
			b.question(n, udp{ports: ports{peer: peerPort + 1}})
			b.question(other, udp{ports: ports{self: selfPort + 1}})
			b.wantAsked(n.tuple(udp{}), n.tuple(udp{ports: ports{peer: peerPort + 1}}),
				other.tuple(udp{ports: ports{self: selfPort + 1}}))
		},
		"an alternation is over when a second begins with the address asked last": func(t *testing.T, b *bed, n network) {
			other := n.at(n.other)
			b.question(n, udp{})
			b.question(other, udp{}) // in the peer's name
			for _, aged := range [][]network{{n, other}, {n}} {
				b.question(n, udp{})
				b.age(2, aged...)
				b.question(n, udp{})
				b.wantAsked(n.tuple(udp{}))
				if b.flags(n)&flagAlternates != 0 {
					t.Error("the second began with the address that was asked last: this is no alternation")
				}
				for _, last := range []network{other, n, other} {
					b.question(last, udp{})
					b.wantAsked(last.tuple(udp{}))
				}
			}
		},
		"a question before the answer counts until that": func(t *testing.T, b *bed, n network) {
			b.speaks(n, udp{})
			b.question(n.at(n.other), udp{})
			b.wantAsked(n.at(n.other).tuple(udp{}))
			b.question(n, udp{}) // the answer
			b.wantAsked()
		},
		"another socket is bound to the address that is asked": func(t *testing.T, b *bed, n network) {
			bound := listenUDP(t, netip.AddrPortFrom(n.other, selfPort))
			b.question(n, udp{})
			b.wantAsked(n.tuple(udp{}))
			b.question(n.at(n.other), udp{}) // begins a flow
			b.wantAsked(n.tuple(udp{}))
			ageFlow := func() {
				b.forget(n.at(n.other))
				b.must(b.AddFlow(b.Connectionless, b.flow(n.at(n.other), udp{}, b.replication, 2)))
			}
			ageFlow()
			b.question(n.at(n.other), udp{}) // is the first of a second
			b.wantAsked(n.tuple(udp{}))
			closeSocket(t, bound)
			ageFlow()
			b.question(n.at(n.other), udp{})
			b.wantAsked(n.at(n.other).tuple(udp{}))
		},
	})
}

// TestAskedLate: what is entered of who asked, where that is wanted later.
func TestAskedLate(t *testing.T) {
	tell(t, func(t *testing.T, f story) { eachRepair(t, bpf.DatapathSourceRepairREPAIR_OFF, f) }, map[string]story{
		"a flow that began while nothing was noted": func(t *testing.T, b *bed, n network) {
			b.question(n, udp{})
			b.wantAsked()
			n = n.at(n.other)
			b.must(b.AddFlow(b.Connectionless, b.flow(n, udp{}, b.replication, 2)))
			b.repair(repairOn)
			b.question(n, udp{})
			b.wantAsked(n.tuple(udp{}))
		},
		"the host began while nothing was noted": func(t *testing.T, b *bed, n network) {
			b.speaks(n, udp{})
			b.question(n, udp{})
			b.wantBegun(n, udp{}, false)
			b.repair(repairOn)
			b.question(n, udp{})
			b.wantBegun(n, udp{}, false) // it is not looked at with every answer
			b.ageNotes(1)
			b.speaks(n, udp{})
			b.question(n, udp{})
			b.wantBegun(n, udp{}, true)
		},
	})
}

// TestRepairWanted: what is entered of who asked, where that is only watched.
func TestRepairWanted(t *testing.T) {
	tell(t, func(t *testing.T, f story) { eachRepair(t, bpf.DatapathSourceRepairREPAIR_WATCH, f) }, map[string]story{
		"one that is opened after the first question is entered as well": func(t *testing.T, b *bed, n network) {
			m := udp{ports: ports{self: selfPort + 2}}
			b.question(n, m)
			b.wantAsked()
			b.wantWatched(false)
			defer closeSocket(t, listenUDP(t, netip.AddrPortFrom(netip.IPv6Unspecified(), selfPort+2)))
			b.question(n, m)
			b.wantAsked(n.tuple(m))
			b.wantWatched(true)
		},
		"the loader forgets it, and the same flow begins again": func(t *testing.T, b *bed, n network) {
			for range 2 {
				b.question(n, udp{})
				b.wantWatched(true)
				b.question(n, udp{})
				b.wantWatched(false)
				b.forget(n)
			}
		},
		"a wildcard socket is entered, and no other": func(t *testing.T, b *bed, n network) {
			var want []bpf.DatapathTuple
			for i, c := range []struct {
				address  netip.Addr
				isWanted bool
			}{{netip.Addr{}, false}, {n.self, false}, {n.wildcard(), true}, {netip.IPv6Unspecified(), true}} {
				m := udp{ports: ports{self: selfPort + 2 + uint16(i)}}
				if c.address.IsValid() {
					defer closeSocket(t, listenUDP(t, netip.AddrPortFrom(c.address, selfPort+2+uint16(i))))
				}
				if c.isWanted {
					want = append(want, n.tuple(m))
				}
				b.question(n, m)
				b.question(n, m)
				b.wantAsked(want...)
				b.wantWatched(c.isWanted)
			}
			b.repair(bpf.DatapathSourceRepairREPAIR_OFF)
			b.question(n, udp{ports: ports{peer: peerPort + 1, self: selfPort + 4}})
			b.wantAsked(want...)
			b.wantWatched(false)
		},
	})
}
