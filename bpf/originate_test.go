// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"net/netip"
	"testing"

	"github.com/gopacket/gopacket/layers"
	"golang.org/x/sys/unix"

	"replypath/bpf"
	"replypath/bpf/internal/rig"
)

const (
	strong    = uint8(bpf.DatapathInterfaceFlagsINTERFACE_STRONG)
	weakHost  = bpf.DatapathOutcomeOUTCOME_WEAK_HOST
	corrected = bpf.DatapathOutcomeOUTCOME_CORRECTED
)

// originators are what the host begins with.
var originators = []struct {
	name string
	message
}{
	{"tcp", tcp{flags: "S"}},
	{"tcp, later", tcp{flags: "PA", seq: 3, payload: 100}},
	{"udp", udp{payload: 100}},
	{"sctp", sctp{}},
	{"echo", echo{}},
}

// own gives the replication interface its address alone. What was decided before is void, as the loader has it after any
// change.
func (b *bed) own(n network) {
	b.t.Helper()
	b.must(b.SetOwnAddress(n.self, ownedBy(b.replication)))
	b.outdate()
}

// outdate makes void what was decided for what the host originates.
func (b *bed) outdate() {
	b.t.Helper()
	b.configure(func(s *bpf.DatapathSettings) { s.Ways++ })
}

func ownedBy(i nic) bpf.DatapathOwnFlags {
	return bpf.DatapathOwnFlagsOWN_ADDRESS | bpf.DatapathOwnFlags(i.interfaceIndex)<<bpf.DatapathOwnFlagsOWN_INTERFACE_SHIFT
}

// manageStrong has the strong host model in force on an interface, with what change makes of its record.
func (b *bed) manageStrong(i nic, change func(*bpf.DatapathInterface)) {
	b.t.Helper()
	b.manage(i, func(r *bpf.DatapathInterface) {
		r.Flags |= strong
		r.FirstGateway4, r.FirstGateway6 = i.gateway(4), i.gateway(6)
		if change != nil {
			change(r)
		}
	})
}

// eachOriginated runs a test for both families and all that the host begins with, from the replication interface's
// address, under the strong host model.
func eachOriginated(t *testing.T, f func(t *testing.T, b *bed, n network, m message)) {
	t.Helper()
	for _, m := range originators {
		t.Run(m.name, func(t *testing.T) {
			eachFamily(t, func(t *testing.T, b *bed, n network) {
				b.own(n)
				b.manageStrong(b.replication, nil)
				f(t, b, n, m.message)
			})
		})
	}
}

// begins is the effect of what the host sends first on what is known of the tuple.
func (b *bed) begins(n network, m message) effect {
	switch m := m.(type) {
	case echo:
		return effect{}
	case tcp:
		if m.flags != "S" {
			return effect{}
		}
	}
	return b.notes(n, m)
}

// goesBySource is the effect of a packet that is moved to the replication interface: it is counted there.
func (b *bed) goesBySource(n network, m message, frame []byte) effect {
	e := b.begins(n, m)
	e.redirect, e.frame = true, readdressed(frame, b.replication.router, b.replication.MAC)
	return e
}

// goesAsRouted is the effect of one that is not.
func (b *bed) goesAsRouted(n network, m message, frame []byte, reason bpf.DatapathOutcome, flows uint64) effect {
	e := b.begins(n, m)
	e.pairs = pairs{b.originated(n, m, reason): {Packets: 1, Bytes: uint64(len(frame)), Flows: flows}}
	return e
}

func (b *bed) originated(n network, m message, outcome bpf.DatapathOutcome) bpf.DatapathPair {
	return pair(b.production, b.replication, n, m, outcome|bpf.DatapathOutcomeOUTCOME_ORIGINATED)
}

// record is what is kept of the tuple; nil for nothing.
func (b *bed) record(n network, m message) *bpf.DatapathOriginatedTuple {
	b.t.Helper()
	record, err := b.Record(n.tuple(m))
	b.must(err)
	return record
}

func TestOriginatedMoved(t *testing.T) {
	eachOriginated(t, func(t *testing.T, b *bed, n network, m message) {
		frame := n.out(b.production, m)
		r := egress(b.production, frame)
		r.probe.TCIndex = 0x4321
		want := b.goesBySource(n, m, frame)
		want.probed = &rig.Probed{TCIndex: 1, PktType: unix.PACKET_OTHERHOST}
		b.run(r, want)

		moved := readdressed(frame, b.replication.router, b.replication.MAC)
		b.run(arrive(b.replication, moved, 1), effect{
			pairs:  pairs{b.originated(n, m, corrected): {Packets: 1, Bytes: uint64(len(frame)), Flows: 1}},
			probed: &rig.Probed{TCIndex: 0x4321, PktType: unix.PACKET_OTHERHOST},
		})
		b.exec(egress(b.production, frame))
		r = arrive(b.replication, moved, 2)
		b.run(r, effect{pairs: pairs{b.originated(n, m, corrected): {Packets: 1, Bytes: uint64(len(frame))}}})

		record := b.record(n, m)
		if record == nil || record.Tuple != n.tuple(m) || record.Moved != 2 ||
			record.From != b.production.interfaceIndex || record.To != b.replication.interfaceIndex {
			t.Errorf("what is kept: %+v", record)
		}
	})
}

// TestOriginatedRightAlready: what leaves by the interface of its source is not counted.
func TestOriginatedRightAlready(t *testing.T) {
	eachOriginated(t, func(t *testing.T, b *bed, n network, m message) {
		b.run(egress(b.replication, n.out(b.replication, m)), b.begins(n, m))
		if record := b.record(n, m); record != nil {
			t.Errorf("what is kept: %+v", record)
		}
	})
}

// TestOriginatedLeftAlone: what the strong host model does not heed.
func TestOriginatedLeftAlone(t *testing.T) {
	for _, test := range []struct {
		name   string
		change func(b *bed, n network)
	}{
		{"several interfaces have the address", func(b *bed, n network) {
			b.must(b.SetOwnAddress(n.self, bpf.DatapathOwnFlagsOWN_ADDRESS))
		}},
		{"the interface is gone", func(b *bed, _ network) { b.setInterface(b.replication, bpf.DatapathInterface{}) }},
		{"the interface stands on the kernel's choice", func(b *bed, _ network) {
			b.manageStrong(b.replication, func(r *bpf.DatapathInterface) { r.Lower = b.production.Index })
		}},
		{"excluded", func(b *bed, n network) {
			want, mask := masked(prefix(n.peer))
			b.must(b.SetExclusions(bpf.DatapathExclusion{Peer: want, PeerMask: mask}))
		}},
		{"the peer is this host", func(b *bed, n network) {
			b.must(b.SetOwnAddress(n.peer, bpf.DatapathOwnFlagsOWN_ADDRESS))
		}},
		{"protocol not listed", func(b *bed, _ network) {
			b.configure(func(s *bpf.DatapathSettings) { s.Protocols = rig.Listed(6) })
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			eachFamily(t, func(t *testing.T, b *bed, n network) {
				b.own(n)
				b.manageStrong(b.replication, nil)
				test.change(b, n)
				m := udp{payload: 100}
				verdict, _, _ := b.exec(egress(b.production, n.out(b.production, m)))
				if record := b.record(n, m); verdict != pass || record != nil {
					t.Errorf("verdict %d, what is kept: %+v", verdict, record)
				}
			})
		})
	}
}

// TestOriginatedByGuest: the frame of a guest on a device above the interface is not the host's, whatever its source.
func TestOriginatedByGuest(t *testing.T) {
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		b.own(n)
		b.manageStrong(b.replication, nil)
		m := udp{payload: 100}
		b.run(egress(b.production, readdressed(n.out(b.production, m), b.production.router, neighbour)), b.notes(n, m))
		if record := b.record(n, m); record != nil {
			t.Errorf("what is kept: %+v", record)
		}
	})
}

// TestOriginatedToAGroup: what is for several stations is left alone, and so is DHCP.
func TestOriginatedToAGroup(t *testing.T) {
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		b.own(n)
		b.manageStrong(b.replication, nil)
		m := udp{payload: 100}
		group := n.out(b.production, m, destinationMAC([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}))
		b.run(egress(b.production, group), b.notes(n, m))
		client := udp{ports: ports{peer: 67, self: 68}}
		b.exec(egress(b.production, n.out(b.production, client)))
		for _, m := range []udp{m, client} {
			if record := b.record(n, m); record != nil {
				t.Errorf("what is kept: %+v", record)
			}
		}
	})
}

// TestOriginatedRouted: why a packet goes as routed.
func TestOriginatedRouted(t *testing.T) {
	for _, test := range []struct {
		name   string
		reason bpf.DatapathOutcome
		change func(b *bed, n network)
	}{
		{"weak host model", weakHost, func(b *bed, _ network) { b.manage(b.replication, nil) }},
		{"observed", bpf.DatapathOutcomeOUTCOME_OBSERVE, func(b *bed, _ network) {
			b.manageStrong(b.replication, func(r *bpf.DatapathInterface) { r.Mode = uint8(bpf.DatapathModeMODE_OBSERVE) })
		}},
		{"observed by hand", bpf.DatapathOutcomeOUTCOME_OBSERVE, func(b *bed, _ network) {
			b.switchMode(bpf.DatapathModeMODE_OBSERVE)
		}},
		{"observed, and no gateway", bpf.DatapathOutcomeOUTCOME_OBSERVE, func(b *bed, _ network) {
			b.manageStrong(b.replication, func(r *bpf.DatapathInterface) {
				r.Mode, r.FirstGateway4, r.FirstGateway6 = uint8(bpf.DatapathModeMODE_OBSERVE), 0, 0
			})
		}},
		{"link down", bpf.DatapathOutcomeOUTCOME_LINK_DOWN, func(b *bed, _ network) {
			b.manageStrong(b.replication, func(r *bpf.DatapathInterface) { r.Flags &^= interfaceUp })
		}},
		{"no gateway", bpf.DatapathOutcomeOUTCOME_NO_NEXT_HOP, func(b *bed, _ network) {
			b.manageStrong(b.replication, func(r *bpf.DatapathInterface) { r.FirstGateway4, r.FirstGateway6 = 0, 0 })
		}},
		{"gateway without a MAC", bpf.DatapathOutcomeOUTCOME_NO_NEXT_HOP, func(b *bed, n network) {
			b.must(b.SetGateway(uint32(b.replication.gateway(n.family)), bpf.DatapathGateway{Ifindex: b.replication.Index}))
		}},
		{"no gateway serves the peer", bpf.DatapathOutcomeOUTCOME_NO_NEXT_HOP, func(b *bed, _ network) {
			b.manageStrong(b.replication, func(r *bpf.DatapathInterface) { r.Flags |= routes4 | routes6 })
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			eachOriginated(t, func(t *testing.T, b *bed, n network, m message) {
				test.change(b, n)
				frame := n.out(b.production, m)
				b.run(egress(b.production, frame), b.goesAsRouted(n, m, frame, test.reason, 1))
				again := b.goesAsRouted(n, m, frame, test.reason, 0)
				again.events = nil // a SYN writes the time of the note again
				if _, connects := m.(tcp); !connects {
					again.tables = nil
				}
				b.run(egress(b.production, frame), again)
			})
		})
	}
}

const (
	routes4 = uint8(bpf.DatapathInterfaceFlagsINTERFACE_ROUTES4)
	routes6 = uint8(bpf.DatapathInterfaceFlagsINTERFACE_ROUTES6)
)

// TestOriginatedByRoute: the gateway that a route names for the peer goes before that of the source. Where several would do, that
// one goes before the first. One that has no MAC is not replaced by another.
func TestOriginatedByRoute(t *testing.T) {
	const second, third, silent = 20, 21, 22
	for _, test := range []struct {
		name          string
		route, source uint32 // 0: any, none
		want          int    // number of the router; 0: the first
		noNextHop     bool
	}{
		{name: "named", route: second, want: 7},
		{name: "any"},
		{name: "named, and the source has another", route: second, source: third, want: 7},
		{name: "any, and the source has one", source: third, want: 8},
		{name: "any, and that of the source has no MAC", source: silent, noNextHop: true},
	} {
		t.Run(test.name, func(t *testing.T) {
			eachOriginated(t, func(t *testing.T, b *bed, n network, m message) {
				b.addGateway(b.replication, n, second, routerOf(7))
				b.addGateway(b.replication, n, third, routerOf(8))
				b.must(b.SetGateway(silent, bpf.DatapathGateway{Address: n.stranger.As16(), Ifindex: b.replication.Index}))
				b.manageStrong(b.replication, func(r *bpf.DatapathInterface) { r.Flags |= routes4 | routes6 })
				b.must(b.SetRoute(b.replication.Index, netip.PrefixFrom(n.peer, 16).Masked(), test.route))
				if test.source != 0 {
					b.must(b.SetSource(n.self, test.source))
				}
				frame := n.out(b.production, m)
				if test.noNextHop {
					b.run(egress(b.production, frame), b.goesAsRouted(n, m, frame, noNextHop, 1))
					return
				}
				mac := b.replication.router
				if test.want != 0 {
					mac = routerOf(test.want)
				}
				want := b.begins(n, m)
				want.redirect, want.frame = true, readdressed(frame, mac, b.replication.MAC)
				b.run(egress(b.production, frame), want)
			})
		})
	}
}

// TestOriginatedByOneGateway: what the source wants is not looked for where there is nothing to choose.
func TestOriginatedByOneGateway(t *testing.T) {
	eachOriginated(t, func(t *testing.T, b *bed, n network, m message) {
		b.addGateway(b.replication, n, 20, routerOf(7))
		b.must(b.SetSource(n.self, 20))
		frame := n.out(b.production, m)
		b.run(egress(b.production, frame), b.goesBySource(n, m, frame))
	})
}

// TestOriginatedOnLink: the kernel finds the MAC of a peer that is on the interface's own network.
func TestOriginatedOnLink(t *testing.T) {
	eachOriginated(t, func(t *testing.T, b *bed, n network, m message) {
		b.must(b.SetOnLink(b.replication.Index, netip.PrefixFrom(n.peer, 16).Masked()))
		frame := n.out(b.production, m)
		want := b.begins(n, m)
		want.redirect = true
		b.run(egress(b.production, frame), want)
	})
	// Where no route says so, the kernel would not find it: it goes to the gateway.
	eachOriginated(t, func(t *testing.T, b *bed, n network, m message) {
		b.must(b.SetOnLinkBy(b.replication.Index, netip.PrefixFrom(n.peer, 16).Masked(), bpf.DatapathOnLinkFlagsON_LINK))
		frame := n.out(b.production, m)
		b.run(egress(b.production, frame), b.goesBySource(n, m, frame))
	})
}

// TestOriginatedBare: a tunnel needs no next hop.
func TestOriginatedBare(t *testing.T) {
	for _, n := range l3Networks {
		t.Run(n.name, func(t *testing.T) {
			b := newBed(t, normal)
			b.own(n)
			b.manageStrong(b.replication, func(r *bpf.DatapathInterface) {
				r.Flags |= uint8(bpf.DatapathInterfaceFlagsINTERFACE_NO_HEADER)
				r.Mac, r.FirstGateway4, r.FirstGateway6 = [6]uint8{}, 0, 0
			})
			m := udp{payload: 100}
			want := b.notes(n, m)
			want.redirect = true
			b.run(egress(b.production, n.out(b.production, m)), want)
		})
	}
}

// TestOriginatedFromTunnel: what has no Ethernet header gets one, on the link as well.
func TestOriginatedFromTunnel(t *testing.T) {
	for _, n := range l3Networks {
		for _, onLink := range []bool{false, true} {
			b := newBed(t, normal)
			b.own(n)
			b.manageStrong(b.replication, nil)
			b.manage(b.production, func(r *bpf.DatapathInterface) { r.Flags |= uint8(bpf.DatapathInterfaceFlagsINTERFACE_NO_HEADER) })
			if onLink {
				b.must(b.SetOnLink(b.replication.Index, prefix(n.peer)))
			}
			m := udp{payload: 100}
			r := egressL3(b.production, n.out(b.production, m))
			verdict, frame, _ := b.exec(r)
			router := b.replication.router
			if onLink {
				router = make([]byte, 6) // the kernel writes it
			}
			want := readdressed(frame, router, b.replication.MAC)
			if verdict != redirect || string(frame) != string(want) {
				t.Errorf("%s, on link %t: verdict %d, packet\n%x, want\n%x", n.name, onLink, verdict, frame, want)
			}
		}
	}
}

// TestOriginatedFragments: all fragments of a packet go the way of the first, whatever changes meanwhile.
func TestOriginatedFragments(t *testing.T) {
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		b.own(n)
		b.manageStrong(b.replication, nil)
		m := udp{}
		one, two := n.inPieces(b.production, 1), n.inPieces(b.production, 2)
		moved := func(frame []byte) effect {
			return effect{redirect: true, frame: readdressed(frame, b.replication.router, b.replication.MAC)}
		}
		want := moved(one.first)
		want.events, want.tables = b.notes(n, m).events, b.notes(n, m).tables
		b.run(egress(b.production, one.later), unread(notFirst)) // nobody has seen the first
		b.run(egress(b.production, one.first), want)
		b.run(egress(b.production, one.later), moved(one.later))
		b.run(egress(b.production, two.later), unread(notFirst)) // of another packet
		b.run(egress(b.replication, n.inPieces(b.replication, 1).later), unread(notFirst))

		b.switchMode(bpf.DatapathModeMODE_OBSERVE)
		b.exec(egress(b.production, two.first))
		b.switchMode(bpf.DatapathModeMODE_CONFIGURED)
		b.run(egress(b.production, two.later), effect{pairs: pairs{
			b.originated(n, m, bpf.DatapathOutcomeOUTCOME_OBSERVE): {Packets: 1, Bytes: uint64(len(two.later))},
		}})
	})
}

// TestOriginatedTold: a sender whose packets are too large learns the size once a second.
func TestOriginatedTold(t *testing.T) {
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		b.own(n)
		b.manageStrong(b.replication, func(r *bpf.DatapathInterface) { r.Mtu = narrowMTU; r.Flags |= narrow })
		m := udp{payload: 1400}
		frame := n.out(b.production, m)
		want := b.goesAsRouted(n, m, frame, bpf.DatapathOutcomeOUTCOME_MTU, 1)
		want.redirect = true
		want.frame = b.sizeError(n, frame, b.replication, n.stranger.AsSlice(), narrowMTU)
		b.run(egress(b.production, frame), want)
		b.run(egress(b.production, frame), effect{pairs: pairs{
			b.originated(n, m, bpf.DatapathOutcomeOUTCOME_MTU): {Packets: 1, Bytes: uint64(len(frame))},
		}})
	})
}

// TestOriginatedAnnounced: a SYN announces what fits through the interface of its source.
func TestOriginatedAnnounced(t *testing.T) {
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		b.own(n)
		b.manageStrong(b.replication, func(r *bpf.DatapathInterface) { r.Mtu = narrowMTU; r.Flags |= narrow })
		large, fitting := tcp{flags: "S", options: []layers.TCPOption{mss(1460)}}, tcp{flags: "S", options: []layers.TCPOption{mss(uint16(narrowMTU - n.ipSize() - 20))}}
		want := b.notes(n, large)
		want.redirect = true
		want.frame = readdressed(n.out(b.production, fitting), b.replication.router, b.replication.MAC)
		b.run(egress(b.production, n.out(b.production, large)), want)
	})
}

// TestOriginatedReply: a reply goes by its flow, whatever its source.
func TestOriginatedReply(t *testing.T) {
	eachReply(t, func(t *testing.T, b *bed, n network, m message) {
		b.must(b.SetOwnAddress(n.self, ownedBy(b.backup)))
		b.manageStrong(b.backup, nil)
		frame := n.out(b.production, m)
		b.run(egress(b.production, frame), b.moves(n, m, b.production, b.replication, frame))
	})
}

// TestOriginatedSettled: what was found out about a source is void with another generation.
func TestOriginatedSettled(t *testing.T) {
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		b.manageStrong(b.replication, nil)
		m := udp{payload: 100}
		b.run(egress(b.production, n.out(b.production, m)), b.notes(n, m))
		b.own(n)
		b.run(egress(b.production, n.out(b.production, m)), nothing)
		b.configure(func(s *bpf.DatapathSettings) { s.Generation++ })
		frame := n.out(b.production, m)
		b.run(egress(b.production, frame), effect{redirect: true, frame: readdressed(frame, b.replication.router, b.replication.MAC)})
	})
}

// TestOriginatedBound: a socket is not moved off the device that it is bound to.
func TestOriginatedBound(t *testing.T) {
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		b.must(b.SetOwnAddress(n.self, ownedBy(b.production)))
		b.manageStrong(b.production, nil)
		b.attachEgress()
		m := udp{payload: 100}
		fd := openWith(t, n.inet(), unix.SOCK_DGRAM, 0, bindToDevice(b.replication), bindTo(netip.AddrPortFrom(n.self, selfPort)))
		frame := n.out(b.replication, m)
		want := b.notes(n, m)
		want.pairs = pairs{pair(b.replication, b.production, n, m,
			bpf.DatapathOutcomeOUTCOME_BOUND_DEVICE|bpf.DatapathOutcomeOUTCOME_ORIGINATED): {Packets: 1, Bytes: uint64(len(frame)), Flows: 1}}
		b.send(n, fd, m, want)
	})
}

// TestOriginatedGate: a datagram whose source would have it moved passes the gate of the fallback route.
func TestOriginatedGate(t *testing.T) {
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		b.own(n)
		for _, isStrong := range []bool{false, true} {
			if isStrong {
				b.manageStrong(b.replication, nil)
			}
			want := effect{}
			if !isStrong && b.Features.ProbeRead {
				want = effect{drop: true, events: n.dropped()}
			}
			b.run(gate(b.production, n.out(b.production, udp{payload: 100})), want)
		}
	})
}

// TestOriginatedNoRecord: where nothing can be kept of the tuple, the packets are moved and counted all the same.
func TestOriginatedNoRecord(t *testing.T) {
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		b.own(n)
		b.manageStrong(b.replication, nil)
		m := udp{payload: 100}
		frame := n.out(b.production, m)
		b.run(egress(b.production, frame), b.goesBySource(n, m, frame))
		b.must(b.DeleteRecord(n.tuple(m)))
		moved := readdressed(frame, b.replication.router, b.replication.MAC)
		b.run(arrive(b.replication, moved, 1), effect{pairs: pairs{
			b.originated(n, m, corrected): {Packets: 1, Bytes: uint64(len(frame))},
		}})
	})
}

// TestOriginatedSetFull: of a full set the tuple that was quiet longest makes room; the others keep their records. One that
// sent this second makes none: the new tuple is moved without a record.
func TestOriginatedSetFull(t *testing.T) {
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		b.own(n)
		b.manageStrong(b.replication, nil)
		neighbours := b.inOneSet(n, ways+1)
		newcomer := neighbours[ways]
		const quietest = 3
		for _, m := range neighbours[:ways] {
			b.exec(egress(b.production, n.out(b.production, m)))
		}
		if verdict, _, _ := b.exec(egress(b.production, n.out(b.production, newcomer))); verdict != redirect {
			t.Errorf("verdict %d of what has no record", verdict)
		}
		for i, m := range neighbours {
			if known := b.record(n, m) != nil; known != (i < ways) {
				t.Errorf("in a set that is in use tuple %d has a record: %v", i, known)
			}
		}
		for i, m := range neighbours[:ways] {
			record := b.record(n, m)
			record.Seen -= b.Seconds(1) + uint32(i)
			if i == quietest {
				record.Seen -= 100
			}
			b.must(b.SetRecord(n.tuple(m), *record))
		}
		b.exec(egress(b.production, n.out(b.production, newcomer)))
		for i, m := range neighbours {
			if known := b.record(n, m) != nil; known != (i != quietest) {
				t.Errorf("tuple %d has a record: %v", i, known)
			}
		}
	})
}

// inOneSet returns datagrams whose tuples have one set of what the host originates.
func (b *bed) inOneSet(n network, count int) (found []message) {
	b.t.Helper()
	sets := make(map[uint32][]message)
	for port := uint16(1024); port < 65535; port++ {
		m := udp{payload: 100, ports: ports{peer: peerPort, self: port}}
		set, _ := bpf.Sets(b.Seeds.Digest(n.tuple(m)), b.Originated.MaxEntries())
		if sets[set] = append(sets[set], m); len(sets[set]) == count {
			return sets[set]
		}
	}
	b.t.Fatalf("no %d tuples have one set", count)
	return nil
}
