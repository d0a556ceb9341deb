// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"net/netip"
	"testing"

	"github.com/gopacket/gopacket/layers"

	"replypath/bpf"
	"replypath/bpf/internal/rig"
)

// segment is of a connection that the host opened; nothing is noted when it leaves.
var segment = tcp{flags: "PA", seq: 3, payload: 100}

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

func (b *bed) exclude(rules ...bpf.DatapathExclusion) {
	b.t.Helper()
	b.configure(func(s *bpf.DatapathSettings) { s.Exclusions[0] = rig.Exclusions(rules...) })
}

// TestDecidedOnce: what was decided for two addresses holds until `ways` rises, whatever is in the maps.
func TestDecidedOnce(t *testing.T) {
	onLinkBy := func(flags bpf.DatapathOnLinkFlags) setup {
		return func(b *bed, n network) { b.must(b.SetOnLinkBy(b.replication.Index, prefix(n.peer), flags)) }
	}
	first := func(gateway uint16) setup { return func(b *bed, _ network) { b.strongWith(gateway, gateway, 0) } }
	routed := func(b *bed, n network) {
		b.manageStrong(b.replication, func(r *bpf.DatapathInterface) { r.Flags |= routes4 | routes6 })
		b.routeBy(n, 0)
	}
	for _, test := range []struct {
		name      string
		set       setup // before the first packet
		first     way
		change    setup
		then      way
		meanwhile way // while the decision holds; nil: as the first
	}{
		{name: "the address moves to another interface", first: byGateway, then: byBackup, change: ownedByBackup},
		{name: "the peer's address is own", first: byGateway, then: uncounted, change: func(b *bed, n network) {
			b.must(b.SetOwnAddress(n.peer, ownAddress))
		}},
		{name: "the peer is on the link", first: byGateway, then: onLink, change: onLinkBy(rig.OnLinkRouted)},
		{name: "the peer is on the link no more", first: onLink, then: byGateway,
			set: onLinkBy(rig.OnLinkRouted), change: onLinkBy(bpf.DatapathOnLinkFlagsON_LINK)},
		{name: "on the link, and there is no gateway", first: onLink, then: asRouted(outcomeNoNextHop, 1),
			set: func(b *bed, n network) {
				first(0)(b, n)
				onLinkBy(rig.OnLinkRouted)(b, n)
			}, change: onLinkBy(bpf.DatapathOnLinkFlagsON_LINK)},
		{name: "another gateway is the first", first: byGateway, then: bySecond, change: first(secondGateway)},
		{name: "no gateway any more", first: byGateway, then: asRouted(outcomeNoNextHop, 1), change: first(0)},
		{name: "a gateway at last", first: asRouted(outcomeNoNextHop, 1), then: byGateway, meanwhile: asRouted(outcomeNoNextHop, 0),
			set: first(0), change: func(b *bed, _ network) { b.manageStrong(b.replication, nil) }},
		{name: "a route names another gateway", first: byGateway, then: bySecond,
			set: routed, change: func(b *bed, n network) { b.routeBy(n, secondGateway) }},
		{name: "the source has another gateway", first: byGateway, then: bySecond,
			set: routed, change: func(b *bed, n network) { b.must(b.SetSource(n.self, secondGateway)) }},
		{name: "no gateway serves the peer", first: byGateway, then: asRouted(outcomeNoNextHop, 1), change: func(b *bed, _ network) {
			b.manageStrong(b.replication, func(r *bpf.DatapathInterface) { r.Flags |= routes4 | routes6 })
		}},
	} {
		under(t, test.name, eachFamily, func(t *testing.T, b *bed, n network) {
			b.addGateway(b.replication, n, secondGateway, secondRouter)
			b.ownStrong(n)
			test.set.on(b, n)
			b.leavesBy(n, segment, test.first)
			test.change(b, n)
			if test.meanwhile == nil {
				test.meanwhile = test.first
			}
			b.leavesBy(n, segment, test.meanwhile)
			b.outdate()
			b.leavesBy(n, segment, test.then)
		})
	}
}

func ownedByBackup(b *bed, n network) {
	b.manageStrong(b.backup, nil)
	b.must(b.SetOwnAddress(n.self, ownedBy(b.backup)))
}

// TestDecidedNotForAll: a group's MAC and a guest's frame are left alone, whatever was decided for the tuple.
func TestDecidedNotForAll(t *testing.T) {
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		b.ownStrong(n)
		b.leavesBy(n, segment, byGateway)
		b.leaves(n, segment, nothing, destinationMAC(layers.EthernetBroadcast))
		b.leaves(n, segment, nothing, sourceMAC(neighbour))
		b.leavesBy(n, segment, byGateway)
	})
}

var decidedFamily = map[string]story{
	"each packet is decided about while there are no ways": func(t *testing.T, b *bed, n network) {
		b.addGateway(b.replication, n, secondGateway, secondRouter)
		b.own(n)
		b.configure(func(s *bpf.DatapathSettings) { s.RoutingGeneration = 0 })
		b.manageStrong(b.replication, nil)
		b.leavesBy(n, segment, byGateway)
		b.strongWith(secondGateway, secondGateway, 0)
		b.leavesBy(n, segment, bySecond)
		b.manageStrong(b.replication, nil)
		b.outdate()
		b.leavesBy(n, segment, byGateway)
	},
	"the decision is the same wherever the kernel sends the packets": func(t *testing.T, b *bed, n network) {
		b.addGateway(b.replication, n, secondGateway, secondRouter)
		b.ownStrong(n)
		b.leavesBy(n, segment, byGateway)
		b.strongWith(secondGateway, secondGateway, 0)
		frame := n.out(b.backup, segment)
		b.run(egress(b.backup, frame), byGateway(b, n, segment, frame))
		if record := b.record(n, segment); record.From != b.backup.id || record.To != b.replication.id {
			t.Errorf("what is kept: %+v", record)
		}
		b.outdate()
		b.run(egress(b.backup, frame), bySecond(b, n, segment, frame))
		b.leavesBy(n, segment, bySecond)
		if record := b.record(n, segment); record.From != b.production.id {
			t.Errorf("what is kept: %+v", record)
		}
		// The kernel's choice is that of the source: nothing is to be done.
		b.run(egress(b.replication, n.out(b.replication, segment)), nothing)
	},
}

func TestDecidedFamily(t *testing.T) { tell(t, eachFamily, decidedFamily) }
