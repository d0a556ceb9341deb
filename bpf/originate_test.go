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
	strict    = uint8(bpf.DatapathInterfaceFlagsINTERFACE_STRICT)
	weakHost  = outcomeWeakHost
	corrected = outcomeCorrected
)

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

// own gives the replication interface its address alone. What was decided before is void, as the loader has it after
// any change.
func (b *bed) own(n network) {
	b.t.Helper()
	b.must(b.SetOwnAddress(n.self, ownedBy(b.replication)))
	b.outdate()
}

func (b *bed) ownStrong(n network) {
	b.t.Helper()
	b.own(n)
	b.manageStrong(b.replication, nil)
}

// outdate makes void what was decided for what the host originates.
func (b *bed) outdate() {
	b.t.Helper()
	b.configure(func(s *bpf.DatapathSettings) { s.RoutingGeneration++ })
}

func ownedBy(i nic) bpf.DatapathOwnFlags {
	return ownAddress | bpf.DatapathOwnFlags(i.interfaceIndex)<<bpf.DatapathOwnFlagsOWN_INTERFACE_SHIFT
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
		under(t, m.name, eachFamily, func(t *testing.T, b *bed, n network) {
			b.ownStrong(n)
			f(t, b, n, m.message)
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

func (b *bed) originated(n network, m message, outcome bpf.DatapathOutcome) bpf.DatapathPair {
	return pair(b.production, b.replication, n, m, outcome|outcomeOriginated)
}

// record is what is kept of the addresses; nil for nothing.
func (b *bed) record(n network, m message) *bpf.DatapathRecord {
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
		counted := effect{
			pairs:  pairs{b.originated(n, m, outcomeCorrected): {Packets: 1, Bytes: uint64(len(frame)), Flows: 1}},
			probed: &rig.Probed{TCIndex: 0x4321, PktType: unix.PACKET_OTHERHOST},
		}
		b.run(arrive(b.replication, moved, 1), counted)
		b.exec(r)
		b.run(arrive(b.replication, moved, 2), counted.again())

		record := b.record(n, m)
		tuple := n.tuple(m)
		if record == nil || record.Moved != 2 || record.PeerPort != tuple.PeerPort || record.Protocol != tuple.Protocol ||
			record.From != b.production.interfaceIndex || record.To != b.replication.interfaceIndex {
			t.Errorf("what is kept: %+v", record)
		}
	})
}

// TestOriginatedRightAlready: what leaves by the interface of its source is not counted.
func TestOriginatedRightAlready(t *testing.T) {
	eachOriginated(t, func(t *testing.T, b *bed, n network, m message) {
		b.run(egress(b.replication, n.out(b.replication, m)), b.begins(n, m))
		b.wantNoRecord(n, m)
	})
}

func (b *bed) wantNoRecord(n network, m message) {
	b.t.Helper()
	if record := b.record(n, m); record != nil {
		b.t.Errorf("what is kept: %+v", record)
	}
}

// TestOriginatedLeftAlone: what the strong host model does not heed.
func TestOriginatedLeftAlone(t *testing.T) {
	for name, change := range map[string]setup{
		"several interfaces have the address": func(b *bed, n network) { b.must(b.SetOwnAddress(n.self, ownAddress)) },
		"the interface is gone":               func(b *bed, _ network) { b.setInterface(b.replication, bpf.DatapathInterface{}) },
		"the interface stands on the kernel's choice": func(b *bed, _ network) {
			b.manageStrong(b.replication, func(r *bpf.DatapathInterface) { r.Lower = b.production.Index })
		},
		"excluded":              func(b *bed, n network) { b.exclude(exclusion(prefix(n.peer), netip.Prefix{}, 0, 0)) },
		"the peer is this host": func(b *bed, n network) { b.must(b.SetOwnAddress(n.peer, ownAddress)) },
		"protocol not listed": func(b *bed, _ network) {
			b.configure(func(s *bpf.DatapathSettings) { s.Protocols = rig.Listed(6) })
		},
	} {
		under(t, name, eachFamily, func(t *testing.T, b *bed, n network) {
			b.ownStrong(n)
			change(b, n)
			m := udp{payload: 100}
			if verdict, _, _ := b.exec(egress(b.production, n.out(b.production, m))); verdict != pass {
				t.Errorf("verdict %d", verdict)
			}
			b.wantNoRecord(n, m)
		})
	}
}

// TestOriginatedByGuest: the frame of a guest on a device above the interface is not the host's, whatever its source.
func TestOriginatedByGuest(t *testing.T) {
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		b.ownStrong(n)
		b.leaves(n, udp{}, b.notes(n, udp{}), sourceMAC(neighbour))
		b.wantNoRecord(n, udp{})
	})
}

// TestOriginatedToAGroup: what is for several stations is left alone, and so is DHCP.
func TestOriginatedToAGroup(t *testing.T) {
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		b.ownStrong(n)
		b.leaves(n, udp{}, b.notes(n, udp{}), destinationMAC(layers.EthernetBroadcast))
		b.wantNoRecord(n, udp{})
		client := udp{ports: ports{peer: 67, self: 68}}
		b.exec(egress(b.production, n.out(b.production, client)))
		b.wantNoRecord(n, client)
	})
}

// TestOriginatedRouted: why a packet goes as routed.
func TestOriginatedRouted(t *testing.T) {
	strongWith := func(change func(*bpf.DatapathInterface)) setup {
		return func(b *bed, _ network) { b.manageStrong(b.replication, change) }
	}
	for _, test := range []struct {
		name   string
		reason bpf.DatapathOutcome
		change setup
	}{
		{"weak host model", weakHost, func(b *bed, _ network) { b.manage(b.replication, nil) }},
		{"observed", outcomeObserve, strongWith(func(r *bpf.DatapathInterface) { r.Mode = modeObserve })},
		{"observed by hand", outcomeObserve, func(b *bed, _ network) { b.switchMode(modeObserve) }},
		{"trial is over", outcomeObserve, func(b *bed, _ network) { b.configure(func(s *bpf.DatapathSettings) { s.Until = 1 }) }},
		{"observed, and no gateway", outcomeObserve, strongWith(func(r *bpf.DatapathInterface) {
			r.Mode, r.FirstGateway4, r.FirstGateway6 = modeObserve, 0, 0
		})},
		{"link down", outcomeLinkDown, strongWith(func(r *bpf.DatapathInterface) { r.Flags &^= interfaceUp })},
		{"no gateway", noNextHop, strongWith(func(r *bpf.DatapathInterface) { r.FirstGateway4, r.FirstGateway6 = 0, 0 })},
		{"gateway without a MAC", noNextHop, func(b *bed, n network) {
			b.must(b.SetGateway(uint32(b.replication.gateway(n.family)), bpf.DatapathGateway{Ifindex: b.replication.Index}))
		}},
		{"no gateway serves the peer", noNextHop, strongWith(func(r *bpf.DatapathInterface) { r.Flags |= routes4 | routes6 })},
	} {
		under(t, test.name, eachOriginated, func(t *testing.T, b *bed, n network, m message) {
			test.change(b, n)
			want := b.begins(n, m)
			want.pairs = asRouted(test.reason, 1)(b, n, m, n.out(b.production, m)).pairs
			b.leaves(n, m, want)
			again := want.again()
			again.events = nil
			if _, connects := m.(tcp); connects { // each SYN is a note
				again.tables, again.events = want.tables, want.events
			}
			b.leaves(n, m, again)
		})
	}
}

const (
	routes4 = uint8(bpf.DatapathInterfaceFlagsINTERFACE_ROUTES4)
	routes6 = uint8(bpf.DatapathInterfaceFlagsINTERFACE_ROUTES6)
)

// TestOriginatedByRoute: the gateway that a route names for the peer goes before that of the source. Where several would
// do, that one goes before the first. One that has no MAC is not replaced by another. What the source wants is not
// looked for where there is nothing to choose.
func TestOriginatedByRoute(t *testing.T) {
	const second, third, silent = 20, 21, 22
	for _, test := range []struct {
		name          string
		route, source uint32 // 0: any, none
		want          int    // number of the router; 0: the first; -1: there is no next hop
		noRoutes      bool
	}{
		{name: "named", route: second, want: 7},
		{name: "any"},
		{name: "named, and the source has another", route: second, source: third, want: 7},
		{name: "any, and the source has one", source: third, want: 8},
		{name: "any, and that of the source has no MAC", source: silent, want: -1},
		{name: "nothing to choose", source: second, noRoutes: true},
	} {
		under(t, test.name, eachOriginated, func(t *testing.T, b *bed, n network, m message) {
			b.addGateway(b.replication, n, second, routerOf(7))
			b.addGateway(b.replication, n, third, routerOf(8))
			b.must(b.SetGateway(silent, bpf.DatapathGateway{Address: n.stranger.As16(), Ifindex: b.replication.Index}))
			if !test.noRoutes {
				b.manageStrong(b.replication, func(r *bpf.DatapathInterface) { r.Flags |= routes4 | routes6 })
				b.must(b.SetRoute(b.replication.Index, netip.PrefixFrom(n.peer, 16).Masked(), test.route))
			}
			if test.source != 0 {
				b.must(b.SetSource(n.self, test.source))
			}
			want, frame := b.begins(n, m), n.out(b.production, m)
			if test.want < 0 {
				want.pairs = asRouted(noNextHop, 1)(b, n, m, frame).pairs
			} else {
				router := either(test.want != 0, routerOf(test.want), b.replication.router)
				want.redirect, want.frame = true, readdressed(frame, router, b.replication.MAC)
			}
			b.leaves(n, m, want)
		})
	}
}

// TestOriginatedOnLink: the kernel finds the MAC of a peer that is on the interface's own network. Where no route says
// so it would not: the packet goes to the gateway.
func TestOriginatedOnLink(t *testing.T) {
	eachOriginated(t, func(t *testing.T, b *bed, n network, m message) {
		b.must(b.SetOnLink(b.replication.Index, netip.PrefixFrom(n.peer, 16).Masked()))
		want := b.begins(n, m)
		want.redirect = true
		b.leaves(n, m, want)
	})
	eachOriginated(t, func(t *testing.T, b *bed, n network, m message) {
		b.must(b.SetOnLinkBy(b.replication.Index, netip.PrefixFrom(n.peer, 16).Masked(), bpf.DatapathOnLinkFlagsON_LINK))
		b.leaves(n, m, b.goesBySource(n, m, n.out(b.production, m)))
	})
}

// TestOriginatedBare: a tunnel needs no next hop.
func TestOriginatedBare(t *testing.T) {
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		b.own(n)
		b.manageStrong(b.replication, func(r *bpf.DatapathInterface) {
			r.Flags |= noHeader
			r.Mac, r.FirstGateway4, r.FirstGateway6 = [6]uint8{}, 0, 0
		})
		want := b.notes(n, udp{})
		want.redirect = true
		b.leaves(n, udp{}, want)
	})
}

// TestOriginatedFromTunnel: what has no Ethernet header gets one, on the link as well, where the kernel writes the MAC.
func TestOriginatedFromTunnel(t *testing.T) {
	for _, onLink := range []bool{false, true} {
		eachL3(t, func(t *testing.T, b *bed, n network) {
			b.ownStrong(n)
			b.manage(b.production, func(r *bpf.DatapathInterface) { r.Flags |= noHeader })
			if onLink {
				b.must(b.SetOnLink(b.replication.Index, prefix(n.peer)))
			}
			verdict, frame, _ := b.exec(egressL3(b.production, n.out(b.production, udp{payload: 100})))
			router := either(onLink, make([]byte, 6), b.replication.router)
			if verdict != redirect {
				t.Errorf("verdict %d", verdict)
			}
			b.wantFrame(frame, readdressed(frame, router, b.replication.MAC))
		})
	}
}

// TestOriginatedFragments: all fragments of a packet go the way of the first, whatever changes meanwhile.
func TestOriginatedFragments(t *testing.T) {
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		b.ownStrong(n)
		m, one, two := udp{}, n.inPieces(b.production, 1), n.inPieces(b.production, 2)
		b.run(egress(b.production, one.later), unread(notFirst)) // nobody has seen the first
		b.run(egress(b.production, one.first), b.goesBySource(n, m, one.first))
		b.run(egress(b.production, one.later), byGateway(b, n, m, one.later))
		b.run(egress(b.production, two.later), unread(notFirst)) // of another packet
		b.run(egress(b.replication, n.inPieces(b.replication, 1).later), unread(notFirst))

		b.switchMode(modeObserve)
		b.exec(egress(b.production, two.first))
		b.switchMode(modeConfigured)
		b.run(egress(b.production, two.later), asRouted(outcomeObserve, 0)(b, n, m, two.later))
	})
}

// TestOriginatedTold: a sender whose packets are too large learns the size once a second.
func TestOriginatedTold(t *testing.T) {
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		b.own(n)
		b.manageStrong(b.replication, func(r *bpf.DatapathInterface) { r.Mtu = narrowMTU; r.Flags |= narrow })
		frame := n.out(b.production, tooLarge)
		want := b.notes(n, tooLarge)
		want.pairs = asRouted(outcomeMTU, 1)(b, n, tooLarge, frame).pairs
		want.redirect, want.frame = true, b.sizeError(n, frame, b.replication, n.stranger.AsSlice(), narrowMTU)
		b.leaves(n, tooLarge, want)
		b.leavesBy(n, tooLarge, asRouted(outcomeMTU, 0))
	})
}

// TestOriginatedAnnounced: a SYN announces what fits through the interface of its source.
func TestOriginatedAnnounced(t *testing.T) {
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		b.own(n)
		b.manageStrong(b.replication, func(r *bpf.DatapathInterface) { r.Mtu = narrowMTU; r.Flags |= narrow })
		large, fitting := tcp{flags: "S", options: with(mss(1460))}, tcp{flags: "S", options: with(mss(largestMSS(n)))}
		b.leaves(n, large, b.goesBySource(n, large, n.out(b.production, fitting)))
	})
}

// TestOriginatedBound: a socket is not moved off the device that it is bound to.
func TestOriginatedBound(t *testing.T) {
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		b.must(b.SetOwnAddress(n.self, ownedBy(b.production)))
		b.manageStrong(b.production, nil)
		b.attachEgress()
		m := udp{payload: 100}
		fd := b.serve(n.self, 0, bindToDevice(b.replication))
		frame := n.out(b.replication, m)
		want := b.notes(n, m)
		want.pairs = pairs{pair(b.replication, b.production, n, m,
			outcomeBoundDevice|outcomeOriginated): {Packets: 1, Bytes: uint64(len(frame)), Flows: 1}}
		b.send(n, fd, m, want)
	})
}

// TestOriginatedReply: a reply goes by its flow, whatever its source.
func TestOriginatedReply(t *testing.T) {
	eachReply(t, func(t *testing.T, b *bed, n network, m message) {
		b.must(b.SetOwnAddress(n.self, ownedBy(b.backup)))
		b.manageStrong(b.backup, nil)
		b.wantMoved(n, m)
	})
}

var originateFamily = map[string]story{
	"what was found out about a source is void with another generation": func(t *testing.T, b *bed, n network) {
		b.manageStrong(b.replication, nil)
		m := udp{payload: 100}
		b.leaves(n, m, b.notes(n, m))
		b.own(n)
		b.leaves(n, m, nothing)
		b.renew()
		frame := n.out(b.production, m)
		b.run(egress(b.production, frame), effect{redirect: true, frame: readdressed(frame, b.replication.router, b.replication.MAC)})
	},
}

func TestOriginateFamily(t *testing.T) { tell(t, eachFamily, originateFamily) }
