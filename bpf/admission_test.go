// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"net"
	"net/netip"
	"testing"

	"github.com/gopacket/gopacket/layers"

	"replypath/bpf"
	"replypath/bpf/internal/rig"
)

// starts is the effect of a packet that starts a flow, whatever its protocol.
func (b *bed) starts(n network, m message, via nic) effect {
	if _, ok := m.(tcp); !ok {
		return b.admits(n, m, via)
	}
	return effect{events: once(eventAdmittedHalfOpen), tables: halfOpen(b.born(n, m, via))}
}

var starters = []struct {
	name string
	message
}{
	{"tcp", tcp{flags: "S", seq: 77}},
	{"udp", udp{payload: 3}},
	{"sctp", sctp{}},
	{"echo", echo{}},
}

// eachStarter runs a test for both families and everything that starts a flow.
func eachStarter(t *testing.T, f func(*testing.T, *bed, network, message)) {
	t.Helper()
	for _, m := range starters {
		under(t, m.name, eachFamily, func(t *testing.T, b *bed, n network) { f(t, b, n, m.message) })
	}
}

// TestAdmitListedProtocol: a protocol without ports is recorded by address pair.
func TestAdmitListedProtocol(t *testing.T) {
	for _, protocol := range []layers.IPProtocol{
		layers.IPProtocolGRE, layers.IPProtocolESP, layers.IPProtocolAH, layers.IPProtocolIPIP, layers.IPProtocolVRRP, 0xff,
	} {
		under(t, protocol.String(), eachFamily, func(t *testing.T, b *bed, n network) {
			b.configure(func(s *bpf.DatapathSettings) { s.Protocols = rig.Listed(uint8(protocol)) })
			m := raw{protocol, []byte{1, 2, 3}}
			b.arrives(n, m, b.admits(n, m, b.replication))
		})
	}
}

// TestAdmitDHCP: DHCP is asked as any server is; from or to no address it starts nothing.
func TestAdmitDHCP(t *testing.T) {
	groups := map[uint8]string{4: "255.255.255.255", 6: "ff02::1:2"}
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		for _, port := range []uint16{67, 68, 546, 547} {
			m := udp{ports: ports{self: port}}
			b.arrives(n, m, b.admits(n, m, b.replication))
			b.put()
			b.arrives(n, m, unread(bpf.DatapathEventEVENT_IGNORED_SOURCE), source(netip.MustParseAddr(extraordinary[n.family][0])))
		}
		b.arrives(n.at(netip.MustParseAddr(groups[n.family])), udp{ports: ports{self: 547}}, unread(eventIgnoredNotOwn))
	})
}

// TestUnrecorded: what asks this host by a tunnel's protocol that is not listed is counted by its number, no other is.
func TestUnrecorded(t *testing.T) {
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		for _, protocol := range []layers.IPProtocol{
			layers.IPProtocolIPv4, layers.IPProtocolIPv6, layers.IPProtocolGRE, layers.IPProtocolESP, layers.IPProtocolAH, 108, 115, layers.IPProtocolVRRP,
		} {
			m, want := raw{protocol, []byte{1, 2, 3}}, unread(bpf.DatapathEventEVENT_IGNORED_PROTOCOL)
			if protocol != layers.IPProtocolVRRP {
				by := pair(b.replication, b.replication, n, m, bpf.DatapathOutcomeOUTCOME_UNRECORDED)
				by.Protocol = uint8(protocol)
				want.pairs = pairs{by: {Packets: 1, Bytes: uint64(len(n.in(b.replication, m)))}}
			}
			b.arrives(n, m, want)
		}
	})
}

// extraordinary and ordinary addresses, at the bounds of their ranges.
var (
	extraordinary = map[uint8][]string{
		4: {"0.0.0.0", "127.0.0.0", "127.0.0.1", "127.255.255.255", "169.254.0.0", "169.254.255.255",
			"224.0.0.0", "224.0.0.1", "239.255.255.255", "255.255.255.255"},
		6: {"::", "::1", "fe80::1", "febf:ffff::1", "ff00::", "ff02::1", "ff0e::101", "ffff::1"},
	}
	ordinary = map[uint8][]string{
		4: {"1.0.0.0", "126.255.255.255", "128.0.0.1", "169.253.255.255", "169.255.0.0", "192.168.0.1", "223.255.255.255",
			"0.0.0.1", "0.1.0.7", "0.255.255.255", "240.0.0.0", "240.1.0.7", "255.0.0.1", "255.255.255.254"},
		6: {"::2", "::1:0:0:1", "0:0:1::1", "64:ff9b::1", "2001:db8::1", "fd00::1", "fe7f:ffff::1", "fec0::1", "feff::1"},
	}
)

// unmanage takes away an interface's record and device as the loader does when it goes.
func (b *bed) unmanage(i nic) {
	b.t.Helper()
	b.must(b.SetDevice(uint32(i.id), 0))
	b.must(b.Interfaces.Put(i.Index, bpf.DatapathInterface{}))
}

// TestTimestampFlow: a timestamp request of IPv4 starts a flow as an echo request does, its answer goes by that.
func TestTimestampFlow(t *testing.T) {
	b, n := newBed(t, normal), networks[0]
	request, reply := echo{time: true}, echo{time: true, reply: true}
	b.arrives(n, request, b.admits(n, request, b.replication))
	b.put(connectionlessFlow(b.flow(n, request, b.replication, 0)))
	b.wantMoved(n, reply)
}

// TestStackedDevice: a macvlan's frames pass the device below as well, in both directions, on the way that they should
// go. What the kernel sends by that one, with its MAC, gets the macvlan's, and goes to the same
// station if no gateway of the macvlan is known; an ipvlan has no other MAC.
// Segments that never move a flow are not counted on their way up either.
func TestStackedDevice(t *testing.T) {
	eachReply(t, func(t *testing.T, b *bed, n network, m message) {
		above := func(change func(*bpf.DatapathInterface)) {
			b.manage(b.replication, func(r *bpf.DatapathInterface) {
				r.Lower = b.production.Index
				change(r)
			})
		}
		above(func(r *bpf.DatapathInterface) { copy(r.Mac[:], b.production.MAC) })
		b.leaves(n, m, nothing)
		above(func(*bpf.DatapathInterface) {})
		b.leaves(n, m, nothing, sourceMAC(b.replication.MAC))
		frame := n.out(b.backup, m)
		b.run(egress(b.backup, frame), b.moves(n, m, b.backup, b.replication, frame))

		for _, c := range []struct {
			gateway uint16
			nextHop uint8
			kernel  net.HardwareAddr // its next hop
			to      net.HardwareAddr
			way     uint16
		}{
			{b.replication.gateway(n.family), 0, b.production.router, b.replication.router, 0},
			{0, 0, b.production.router, b.production.router, 0},
			{0, uint8(bpf.DatapathNextHopModeNEXT_HOP_GATEWAY), b.production.router, b.production.router, 0},
			{0, 0, bpf.AnyPeer, b.replication.router, 0},
			{0, 0, b.production.router, b.replication.router, flagLastHop},
		} {
			above(func(r *bpf.DatapathInterface) { r.Gateway4, r.Gateway6, r.NextHop = 0, 0, c.nextHop })
			f := b.flow(n, m, b.replication, 0)
			f.Gateway, f.Flags = c.gateway, f.Flags|c.way
			b.put(flowOf(m, f))
			frame = n.out(b.production, m, destinationMAC(c.kernel))
			want := b.readdresses(n, m, b.replication, frame)
			want.frame = readdressed(frame, c.to, b.replication.MAC)
			once := want.pairs[pair(b.replication, b.replication, n, m, outcomeCorrected)]
			want.pairs = pairs{
				pair(b.production, b.replication, n, m, outcomeAsymmetric): {Flows: 1},
				pair(b.production, b.replication, n, m, outcomeCorrected):  once,
			}
			b.run(egress(b.production, frame), want)
		}
	})
	for _, m := range followers {
		under(t, m.name, eachFamily, func(t *testing.T, b *bed, n network) {
			b.follow(bpf.DatapathFollowFOLLOW_LATEST)
			b.manage(b.replication, func(r *bpf.DatapathInterface) { r.Lower = b.backup.Index })
			b.put(flowOf(m.message, b.flow(n, m.message, b.replication, 20)))
			b.run(ingress(b.backup, n.in(b.backup, m.message)), nothing)
		})
	}
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		b.manage(b.replication, func(r *bpf.DatapathInterface) { r.Lower = b.backup.Index })
		f := b.handshake(n, 1, attemptSent, 0)
		b.put(halfOpen(f))
		b.exec(egress(b.backup, n.out(b.backup, synAck, sourceMAC(b.replication.MAC))))
		if after, _ := b.snapshot(); after.HalfOpen[f.Tuple].Attempt != attemptSent {
			t.Errorf("on its way down another way was tried: %+v", after.HalfOpen[f.Tuple])
		}
		b.run(ingress(b.backup, n.in(b.backup, finalAck)), nothing)
		b.put(establishedFlow(b.flow(n, tcp{}, b.replication, 0)))
		for _, flags := range []string{"R", "SA"} {
			b.run(ingress(b.backup, n.in(b.backup, tcp{flags: flags})), nothing)
			b.run(ingress(b.production, n.in(b.production, tcp{flags: flags})), unread(contested))
		}
	})
}

// TestForeign: what is forwarded for an address that is none of ours is looked for in no table, in both directions, though an
// entry be there of when the address was ours. A CPU counts that once, until what counts as ours changes.
func TestForeign(t *testing.T) {
	for _, reply := range repliers {
		under(t, reply.name, eachFamily, func(t *testing.T, b *bed, n network) {
			forwarded, m := n.at(n.stranger), reply.message
			question := m
			if _, ok := m.(echo); ok {
				question = echo{}
			}
			b.put(flowOf(m, b.flow(forwarded, m, b.replication, 0)))
			out := egress(b.production, forwarded.out(b.production, m))
			own := out // what the host itself sends
			out.ingress = b.backup
			b.arrives(forwarded, question, unread(eventIgnoredNotOwn))
			b.arrives(forwarded, question, nothing)
			b.run(out, nothing)
			moved := b.moves(forwarded, m, b.production, b.replication, own.frame)
			b.run(own, moved)

			b.put(flowOf(m, b.flow(forwarded, m, b.replication, 0)))
			b.must(b.SetOwnAddress(n.stranger, ownAddress))
			b.run(out, nothing) // it is not told of yet
			b.renew()
			b.run(out, moved)
		})
	}
}

// TestForeignBySome: where an interface takes what is for any address, what leaves is looked for.
func TestForeignBySome(t *testing.T) {
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		forwarded, m := n.at(n.stranger), udp{}
		byAny := func(takes bpf.DatapathTakes) {
			b.must(b.Interfaces.Put(bpf.InterfacePlaces, bpf.DatapathInterface{Takes: uint8(takes)}))
		}
		byAny(bpf.DatapathTakesTAKES_ALL4 | bpf.DatapathTakesTAKES_ALL6)
		t.Cleanup(func() { byAny(0) })
		b.put(connectionlessFlow(b.flow(forwarded, m, b.replication, 0)))
		out := egress(b.production, forwarded.out(b.production, m))
		out.ingress = b.backup
		b.run(out, b.moves(forwarded, m, b.production, b.replication, out.frame))
		b.run(ingress(b.backup, forwarded.in(b.backup, m)), unread(eventIgnoredNotOwn))

		other := udp{ports: ports{peer: 999}}
		out = egress(b.production, forwarded.out(b.production, other))
		out.ingress = b.backup
		b.run(out, nothing) // by which the host begins nothing
	})
}

// TestAdmit: what starts a flow does so by an interface that is managed, from an address and a MAC that an answer can
// be sent to.
func TestAdmit(t *testing.T) {
	gone := func(b *bed, _ network) { b.unmanage(b.replication) }
	another := func(b *bed, _ network) { // that shares the low bits of its index
		b.manage(b.replication, func(r *bpf.DatapathInterface) { r.Ifindex += 1 << 16 })
	}
	unset := func(b *bed, _ network) { b.must(b.SetSettings(bpf.DatapathSettings{})) }
	eachStarter(t, func(t *testing.T, b *bed, n network, m message) {
		fresh := func() { b.put() }
		b.arrives(n, m, b.starts(n, m, b.replication))
		fresh()
		for _, text := range []string{"00:00:00:00:00:01", "00:00:01:00:00:00", "fe:ff:ff:ff:ff:ff"} {
			via := nic{b.replication.Device, b.replication.id, mac(text)}
			b.arrives(n, m, b.starts(n, m, via), sourceMAC(via.router))
			fresh()
		}
		for _, address := range ordinary[n.family] {
			peer := n.from(netip.MustParseAddr(address))
			b.arrives(peer, m, b.starts(peer, m, b.replication))
			fresh()
		}
		for _, text := range []string{"00:00:00:00:00:00", "01:00:00:00:00:00", "03:00:00:00:01:01", "ff:ff:ff:ff:ff:ff"} {
			b.arrives(n, m, unread(bpf.DatapathEventEVENT_IGNORED_MAC), sourceMAC(mac(text)))
		}
		for _, address := range append([]string{n.self.String(), n.other.String()}, extraordinary[n.family]...) {
			b.arrives(n, m, unread(bpf.DatapathEventEVENT_IGNORED_SOURCE), source(netip.MustParseAddr(address)))
		}
	})
	for _, refused := range []struct {
		change setup
		event  bpf.DatapathEvent
	}{{gone, bpf.DatapathEventEVENT_IGNORED_INTERFACE}, {another, bpf.DatapathEventEVENT_IGNORED_INTERFACE}, {unset, bpf.DatapathEventEVENT_IGNORED_PROTOCOL}} {
		eachStarter(t, func(t *testing.T, b *bed, n network, m message) {
			refused.change(b, n)
			b.arrives(n, m, unread(refused.event))
		})
	}
}
