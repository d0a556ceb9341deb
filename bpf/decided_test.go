// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"net/netip"
	"testing"

	"replypath/bpf"
	"replypath/bpf/internal/rig"
)

// segment is of a connection that the host opened; nothing is noted when it leaves.
var segment = tcp{flags: "PA", seq: 3, payload: 100}

const noNextHop = bpf.DatapathOutcomeOUTCOME_NO_NEXT_HOP

// way is how a packet leaves.
type way func(b *bed, n network, m message, frame []byte) effect

func byGateway(b *bed, _ network, _ message, frame []byte) effect {
	return effect{redirect: true, frame: readdressed(frame, b.replication.router, b.replication.MAC)}
}

func bySecond(b *bed, _ network, _ message, frame []byte) effect {
	return effect{redirect: true, frame: readdressed(frame, secondRouter, b.replication.MAC)}
}

func byBackup(b *bed, _ network, _ message, frame []byte) effect {
	return effect{redirect: true, frame: readdressed(frame, b.backup.router, b.backup.MAC)}
}

func onLink(*bed, network, message, []byte) effect { return effect{redirect: true} }

func uncounted(*bed, network, message, []byte) effect { return nothing }

// asRouted is a way for a reason, as which the tuple was counted before or not.
func asRouted(reason bpf.DatapathOutcome, flows uint64) way {
	return func(b *bed, n network, m message, frame []byte) effect {
		return effect{pairs: pairs{b.originated(n, m, reason): {Packets: 1, Bytes: uint64(len(frame)), Flows: flows}}}
	}
}

// leavesBy sends a packet, which has to leave in this way.
func (b *bed) leavesBy(n network, m message, by way) {
	b.t.Helper()
	frame := n.out(b.production, m)
	b.run(egress(b.production, frame), by(b, n, m, frame))
}

// strongWith is manageStrong of the replication interface with these first gateways and flags.
func (b *bed) strongWith(gateway4, gateway6 uint16, flags uint8) {
	b.t.Helper()
	b.manageStrong(b.replication, func(r *bpf.DatapathInterface) {
		r.FirstGateway4, r.FirstGateway6 = gateway4, gateway6
		r.Flags |= flags
	})
}

func (b *bed) routeBy(n network, gateway uint32) {
	b.t.Helper()
	b.must(b.SetRoute(b.replication.Index, netip.PrefixFrom(n.peer, 16).Masked(), gateway))
}

func (b *bed) exclude(rule bpf.DatapathExclusion) {
	b.t.Helper()
	b.must(b.SetExclusions(rule))
}

// TestDecidedOnce: what was decided for a tuple holds until `ways` rises, whatever is in the maps.
func TestDecidedOnce(t *testing.T) {
	for _, test := range []struct {
		name      string
		set       func(b *bed, n network) // before the first packet
		first     way
		change    func(b *bed, n network)
		then      way
		meanwhile way // while the decision holds; nil: as the first
	}{
		{name: "the address moves to another interface", first: byGateway, then: byBackup, change: func(b *bed, n network) {
			b.manageStrong(b.backup, nil)
			b.must(b.SetOwnAddress(n.self, ownedBy(b.backup)))
		}},
		{name: "excluded", first: byGateway, then: uncounted, change: func(b *bed, n network) {
			want, mask := masked(prefix(n.peer))
			b.exclude(bpf.DatapathExclusion{Peer: want, PeerMask: mask})
		}},
		{name: "protocol not listed", first: byGateway, then: uncounted, change: func(b *bed, _ network) {
			b.configure(func(s *bpf.DatapathSettings) { s.Protocols = rig.Listed(17) })
		}},
		{name: "the peer's address is own", first: byGateway, then: uncounted, change: func(b *bed, n network) {
			b.must(b.SetOwnAddress(n.peer, bpf.DatapathOwnFlagsOWN_ADDRESS))
		}},
		{name: "the peer is on the link", first: byGateway, then: onLink, change: func(b *bed, n network) {
			b.must(b.SetOnLink(b.replication.Index, prefix(n.peer)))
		}},
		{
			name: "the peer is on the link no more", first: onLink, then: byGateway,
			set: func(b *bed, n network) { b.must(b.SetOnLink(b.replication.Index, prefix(n.peer))) },
			change: func(b *bed, n network) {
				b.must(b.SetOnLinkBy(b.replication.Index, prefix(n.peer), bpf.DatapathOnLinkFlagsON_LINK))
			},
		},
		{
			name: "on the link, and there is no gateway", first: onLink, then: asRouted(noNextHop, 1),
			set: func(b *bed, n network) {
				b.strongWith(0, 0, 0)
				b.must(b.SetOnLink(b.replication.Index, prefix(n.peer)))
			},
			change: func(b *bed, n network) {
				b.must(b.SetOnLinkBy(b.replication.Index, prefix(n.peer), bpf.DatapathOnLinkFlagsON_LINK))
			},
		},
		{name: "another gateway is the first", first: byGateway, then: bySecond, change: func(b *bed, _ network) {
			b.strongWith(secondGateway, secondGateway, 0)
		}},
		{name: "no gateway any more", first: byGateway, then: asRouted(noNextHop, 1), change: func(b *bed, _ network) {
			b.strongWith(0, 0, 0)
		}},
		{
			name: "a gateway at last", first: asRouted(noNextHop, 1), then: byGateway, meanwhile: asRouted(noNextHop, 0),
			set:    func(b *bed, _ network) { b.strongWith(0, 0, 0) },
			change: func(b *bed, _ network) { b.manageStrong(b.replication, nil) },
		},
		{
			name: "a route names another gateway", first: byGateway, then: bySecond,
			set: func(b *bed, n network) {
				b.manageStrong(b.replication, func(r *bpf.DatapathInterface) { r.Flags |= routes4 | routes6 })
				b.routeBy(n, 0)
			},
			change: func(b *bed, n network) { b.routeBy(n, secondGateway) },
		},
		{
			name: "the source has another gateway", first: byGateway, then: bySecond,
			set: func(b *bed, n network) {
				b.manageStrong(b.replication, func(r *bpf.DatapathInterface) { r.Flags |= routes4 | routes6 })
				b.routeBy(n, 0)
			},
			change: func(b *bed, n network) { b.must(b.SetSource(n.self, secondGateway)) },
		},
		{name: "no gateway serves the peer", first: byGateway, then: asRouted(noNextHop, 1), change: func(b *bed, _ network) {
			b.manageStrong(b.replication, func(r *bpf.DatapathInterface) { r.Flags |= routes4 | routes6 })
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			eachFamily(t, func(t *testing.T, b *bed, n network) {
				b.addGateway(b.replication, n, secondGateway, secondRouter)
				b.own(n)
				b.manageStrong(b.replication, nil)
				if test.set != nil {
					test.set(b, n)
				}
				if test.meanwhile == nil {
					test.meanwhile = test.first
				}
				b.leavesBy(n, segment, test.first)
				test.change(b, n)
				b.leavesBy(n, segment, test.meanwhile)
				b.outdate()
				b.leavesBy(n, segment, test.then)
			})
		})
	}
}

// TestDecidedByNobody: as long as nobody has said of what is decided by, each packet is decided about.
func TestDecidedByNobody(t *testing.T) {
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		b.addGateway(b.replication, n, secondGateway, secondRouter)
		b.own(n)
		b.configure(func(s *bpf.DatapathSettings) { s.Ways = 0 })
		b.manageStrong(b.replication, nil)
		b.leavesBy(n, segment, byGateway)
		b.strongWith(secondGateway, secondGateway, 0)
		b.leavesBy(n, segment, bySecond)
		b.manageStrong(b.replication, nil)
		b.outdate()
		b.leavesBy(n, segment, byGateway)
	})
}

// TestDecidedSeenAtOnce: what is no part of a decision is looked at with each packet, and the decision comes to hold again.
func TestDecidedSeenAtOnce(t *testing.T) {
	for _, test := range []struct {
		name         string
		change, undo func(b *bed, n network)
		meanwhile    way
	}{
		{"weak host model", func(b *bed, _ network) { b.manage(b.replication, nil) }, nil, asRouted(weakHost, 1)},
		{"the gateway has no MAC", func(b *bed, n network) {
			b.must(b.SetGateway(uint32(b.replication.gateway(n.family)), bpf.DatapathGateway{Ifindex: b.replication.Index}))
		}, func(b *bed, n network) {
			b.addGateway(b.replication, n, uint32(b.replication.gateway(n.family)), b.replication.router)
		}, asRouted(noNextHop, 1)},
		{"the gateway has another MAC", func(b *bed, n network) {
			b.addGateway(b.replication, n, uint32(b.replication.gateway(n.family)), secondRouter)
		}, func(b *bed, n network) {
			b.addGateway(b.replication, n, uint32(b.replication.gateway(n.family)), b.replication.router)
		}, bySecond},
		{"the gateway's number is another interface's", func(b *bed, n network) {
			b.addGateway(b.backup, n, uint32(b.replication.gateway(n.family)), secondRouter)
		}, func(b *bed, n network) {
			b.addGateway(b.replication, n, uint32(b.replication.gateway(n.family)), b.replication.router)
		}, asRouted(noNextHop, 1)},
		{"the interface is gone", func(b *bed, _ network) { b.setInterface(b.replication, bpf.DatapathInterface{}) }, nil, uncounted},
		{"observed", func(b *bed, _ network) {
			b.manageStrong(b.replication, func(r *bpf.DatapathInterface) { r.Mode = uint8(bpf.DatapathModeMODE_OBSERVE) })
		}, nil, asRouted(bpf.DatapathOutcomeOUTCOME_OBSERVE, 1)},
		{"observed by hand", func(b *bed, _ network) { b.switchMode(bpf.DatapathModeMODE_OBSERVE) },
			func(b *bed, _ network) { b.switchMode(bpf.DatapathModeMODE_CONFIGURED) }, asRouted(bpf.DatapathOutcomeOUTCOME_OBSERVE, 1)},
		{"link down", func(b *bed, _ network) {
			b.manageStrong(b.replication, func(r *bpf.DatapathInterface) { r.Flags &^= interfaceUp })
		}, nil, asRouted(bpf.DatapathOutcomeOUTCOME_LINK_DOWN, 1)},
		{"several interfaces have the address", func(b *bed, n network) {
			b.ownOtherwise(n, bpf.DatapathOwnFlagsOWN_ADDRESS)
		}, func(b *bed, n network) {
			b.ownOtherwise(n, ownedBy(b.replication))
		}, uncounted},
	} {
		t.Run(test.name, func(t *testing.T) {
			eachFamily(t, func(t *testing.T, b *bed, n network) {
				b.own(n)
				b.manageStrong(b.replication, nil)
				b.leavesBy(n, segment, byGateway)
				test.change(b, n)
				b.leavesBy(n, segment, test.meanwhile)
				if test.undo != nil {
					test.undo(b, n)
				} else {
					b.manageStrong(b.replication, nil)
				}
				b.leavesBy(n, segment, byGateway)
			})
		})
	}
}

// ownOtherwise says anew which interfaces have the address, as the loader does: each CPU has it in mind until the generation
// is raised.
func (b *bed) ownOtherwise(n network, flags bpf.DatapathOwnFlags) {
	b.must(b.SetOwnAddress(n.self, flags))
	b.configure(func(s *bpf.DatapathSettings) { s.Generation++ })
}

// TestDecidedOfOneTuple: each tuple has a decision of its own.
func TestDecidedOfOneTuple(t *testing.T) {
	eachOriginated(t, func(t *testing.T, b *bed, n network, m message) {
		frame := n.out(b.production, m)
		b.run(egress(b.production, frame), b.goesBySource(n, m, frame))
		b.manageStrong(b.backup, nil)
		b.must(b.SetOwnAddress(n.self, ownedBy(b.backup)))
		verdict, moved, _ := b.exec(egress(b.production, frame))
		if verdict != redirect || string(moved) != string(byGateway(b, n, m, frame).frame) {
			t.Errorf("verdict %d, packet\n%x", verdict, moved)
		}
		b.leavesBy(n, tcp{flags: "PA", seq: 3, ports: ports{peer: peerPort + 7, self: selfPort}}, byBackup)
		b.outdate()
		verdict, moved, _ = b.exec(egress(b.production, frame))
		if verdict != redirect || string(moved) != string(byBackup(b, n, m, frame).frame) {
			t.Errorf("afterwards: verdict %d, packet\n%x", verdict, moved)
		}
		if record := b.record(n, m); record == nil || record.To != b.backup.interfaceIndex {
			t.Errorf("what is kept: %+v", record)
		}
	})
}

// TestDecidedForEachChoice: the decision is the same wherever the kernel sends the packets, and the record says where.
func TestDecidedForEachChoice(t *testing.T) {
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		b.addGateway(b.replication, n, secondGateway, secondRouter)
		b.own(n)
		b.manageStrong(b.replication, nil)
		b.leavesBy(n, segment, byGateway)
		b.strongWith(secondGateway, secondGateway, 0)
		frame := n.out(b.backup, segment)
		b.run(egress(b.backup, frame), byGateway(b, n, segment, frame))
		if record := b.record(n, segment); record.From != b.backup.interfaceIndex || record.To != b.replication.interfaceIndex {
			t.Errorf("what is kept: %+v", record)
		}
		b.outdate()
		b.run(egress(b.backup, frame), bySecond(b, n, segment, frame))
		b.leavesBy(n, segment, bySecond)
		if record := b.record(n, segment); record.From != b.production.interfaceIndex {
			t.Errorf("what is kept: %+v", record)
		}
		// The kernel's choice is that of the source: nothing is to be done.
		b.run(egress(b.replication, n.out(b.replication, segment)), nothing)
	})
}

// TestDecidedNotForAll: a group's MAC and a guest's frame are left alone, whatever was decided for the tuple.
func TestDecidedNotForAll(t *testing.T) {
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		b.own(n)
		b.manageStrong(b.replication, nil)
		b.leavesBy(n, segment, byGateway)
		group := n.out(b.production, segment, destinationMAC([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}))
		b.run(egress(b.production, group), nothing)
		b.run(egress(b.production, readdressed(n.out(b.production, segment), b.production.router, neighbour)), nothing)
		b.leavesBy(n, segment, byGateway)
	})
}

// TestDecidedForAnother: the table takes a record from one tuple for another while a CPU still writes to it for the first.
// What that decided is not what goes for the other.
func TestDecidedForAnother(t *testing.T) {
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		another := tcp{flags: "PA", seq: 3, ports: ports{peer: peerPort + 7, self: selfPort}}
		b.own(n)
		b.manageStrong(b.replication, nil)
		b.leavesBy(n, segment, byGateway)
		b.leavesBy(n, another, byGateway)
		record := b.record(n, another)
		record.Decision = b.record(n, segment).Decision
		b.must(b.SetRecord(n.tuple(another), *record))
		b.manageStrong(b.backup, nil)
		b.must(b.SetOwnAddress(n.self, ownedBy(b.backup)))
		b.leavesBy(n, another, byBackup)
		b.leavesBy(n, segment, byGateway)
	})
}

// TestDecidedFragments: a later fragment has no ports. What is found out for it is no decision about the tuple, for
// which the exclusions may say otherwise.
func TestDecidedFragments(t *testing.T) {
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		b.own(n)
		b.manageStrong(b.replication, nil)
		m, p := udp{}, n.inPieces(b.production, 1)
		b.exec(egress(b.production, p.first))
		b.exclude(bpf.DatapathExclusion{SelfPort: rig.Port(selfPort)})
		b.outdate()
		b.run(egress(b.production, p.later), byGateway(b, n, m, p.later))
		b.leavesBy(n, m, uncounted)

		b.must(b.DeleteRecord(n.tuple(m)))
		b.run(egress(b.production, p.later), byGateway(b, n, m, p.later))
		if record := b.record(n, m); record != nil {
			t.Errorf("a later fragment made a record: %+v", record)
		}
	})
}

// TestDecidedErrors: errors of no flow are of a tuple of their own. They are rare, and decided with each.
func TestDecidedErrors(t *testing.T) {
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		b.addGateway(b.replication, n, secondGateway, secondRouter)
		b.own(n)
		b.manageStrong(b.replication, nil)
		e := b.about(n, udp{})
		b.leavesBy(n, e, byGateway)
		b.strongWith(secondGateway, secondGateway, 0)
		b.leavesBy(n, e, bySecond)
		want, mask := masked(prefix(n.peer))
		b.exclude(bpf.DatapathExclusion{Peer: want, PeerMask: mask})
		b.outdate()
		b.leavesBy(n, e, uncounted)
	})
}
