// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"replypath/test/await"
	testhost "replypath/test/host"
	"replypath/test/product"
	"replypath/test/topology"
	"replypath/test/traffic"
	"replypath/test/wire"
)

// leaving is what B originates from eth1's address.
type leaving struct {
	name   string
	frames topology.Filter
	send   func(*testing.T)
}

// rawPackets are of protocols without a socket of their own: SCTP, and one that is listed.
func rawPackets(s *topology.S1, f topology.Family) []leaving {
	init := []gopacket.SerializableLayer{
		&layers.SCTP{SrcPort: 20000, DstPort: closedPort},
		&layers.SCTPInit{SCTPChunk: layers.SCTPChunk{Type: layers.SCTPChunkTypeInit}, InitiateTag: 1, AdvertisedReceiverWindowCredit: 1500, OutboundStreams: 1, InboundStreams: 1},
	}
	return []leaving{
		rawPacket(s, f, layers.IPProtocolSCTP, init...),
		rawPacket(s, f, layers.IPProtocolGRE, &layers.GRE{Protocol: layers.EthernetTypeIPv4}),
	}
}

func rawPacket(s *topology.S1, f topology.Family, protocol layers.IPProtocol, content ...gopacket.SerializableLayer) leaving {
	self, peer := s.B.Eth1.Address(f), s.A.Eth1.Address(f)
	frames := topology.All(topology.Protocol(protocol), topology.From(self), topology.To(peer))
	return leaving{protocol.String(), frames, func(t *testing.T) {
		buffer := gopacket.NewSerializeBuffer()
		await.Must(t, gopacket.SerializeLayers(buffer, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, content...))
		sendRaw(t, s.B.Host, protocol, self, peer, buffer.Bytes())
	}}
}

// sendRaw sends an IP packet with this content.
func sendRaw(t *testing.T, host *topology.Host, protocol layers.IPProtocol, from, to netip.Addr, content []byte) {
	t.Helper()
	network := map[topology.Family]string{topology.IPv4: "ip4:", topology.IPv6: "ip6:"}[topology.FamilyOf(from)] + fmt.Sprint(uint8(protocol))
	conn := await.Must1[net.PacketConn](t)(host.ListenPacket(t.Context(), network, from.String()))
	defer conn.Close()
	await.Must1[int](t)(conn.WriteTo(content, &net.IPAddr{IP: to.AsSlice()}))
}

// ownErrors are about packets that became no flow, from A: by eth1 what has a protocol that is not listed, by
// an interface that is not managed a datagram for nobody.
func ownErrors(s *topology.S1, inside *topology.Interface, f topology.Family) (all []leaving) {
	add := func(p provocation, at *topology.Interface, toMAC net.HardwareAddr) {
		all = append(all, leaving{"error: " + p.name, topology.All(p.answer(f), topology.From(s.B.Eth1.Address(f))), func(t *testing.T) {
			traffic.NewInjector(t, at).Send(p.frame(at.MAC, toMAC, s.A.Eth1.Address(f), s.B.Eth1.Address(f))...)
		}})
	}
	for _, p := range answeredAsRouted {
		add(p, s.B.Eth1.Peer(), s.B.Eth1.MAC)
	}
	add(answeredWithErrors[0], inside, inside.Peer().MAC)
	return all
}

// wantLeaving has B send, and wants all of it by one of its interfaces, and at A only what left by eth1. It returns
// how many frames that were.
func wantLeaving(t *testing.T, s *topology.S1, all []leaving, eth1 bool) (count int) {
	t.Helper()
	wires, arrived := wire.Tap(t, s.B), wire.Capture(t, s.A.Eth1)
	by := wires.Eth0
	if eth1 {
		by = wires.Eth1
	}
	for _, l := range all {
		l.send(t)
		if _, err := by.Wait(await.Within(t, await.AnswerTime), topology.All(l.frames, topology.Going(topology.Received))); err != nil {
			t.Errorf("%s: %v", l.name, err)
		}
	}
	for _, f := range s.Families() { // behind all of it, on the way that it would have taken by eth0
		sendRaw(t, s.B.Host, experimental, s.B.Eth0.Address(f), s.A.Eth1.Address(f), nil)
		wait(t, arrived, topology.All(topology.From(s.B.Eth0.Address(f)), topology.Protocol(experimental)))
	}
	for _, l := range all {
		count += len(wires.Want(eth1, l.name, l.frames))
		if eth1 {
			wait(t, arrived, l.frames)
		} else if n := arrived.Count(l.frames); n > 0 {
			t.Errorf("%s: %d frames reached A, although they left by the wrong side", l.name, n)
		}
	}
	return count
}

// wantByEth0 has B send, and wants all of it by eth0. It returns how many frames that were.
func wantByEth0(t *testing.T, s *topology.S1, all []leaving) (count int) {
	t.Helper()
	wires := wire.Tap(t, s.B)
	for _, l := range all {
		l.send(t)
		left := topology.All(l.frames, topology.Going(topology.Received))
		if _, err := wires.Eth0.Wait(await.Within(t, await.AnswerTime), left); err != nil {
			t.Errorf("%s: %v", l.name, err)
		}
	}
	for _, l := range all {
		eth0, eth1 := wires.Left(l.frames)
		if count += len(eth0); len(eth1) > 0 {
			t.Errorf("%s: by eth1 left %s", l.name, wire.Describe(eth1))
		}
	}
	return count
}

// TestStrongHostPackets has B originate what is neither TCP nor UDP from eth1's address: SCTP, a listed protocol, and
// ICMP errors about what became no flow. Observed it leaves by eth0, where it is lost; enforced by eth1. What the
// strong host model leaves alone goes by eth0 as without replypath, and is not counted. Only of a socket that is
// bound to eth0 the reason is.
func TestStrongHostPackets(t *testing.T) {
	s := newBeginner(t, topology.StrictSource)
	inside := hostBehind(t, s)
	promptErrors(t, s.B.Host)
	lo := await.Must1[*topology.Interface](t)(s.B.Interface("lo"))
	var all, alone, bound []leaving
	for _, f := range s.Families() {
		for at, address := range map[*topology.Interface]netip.Addr{s.B.Eth0: ofBoth[f], s.B.Eth1: ofBoth[f], lo: ofLo[f]} {
			await.Must(t, at.AddAddress(netip.PrefixFrom(address, address.BitLen())))
		}
		await.Must(t, s.B.Eth0.AddNeighbour(ofLink[f], s.B.Eth0.Peer().MAC))
		from, to := netip.AddrPortFrom(s.B.Eth1.Address(f), 0), netip.AddrPortFrom(s.A.Eth1.Address(f), closedPort)
		all = slices.Concat(all, rawPackets(s, f), ownErrors(s, inside, f), []leaving{datagram(s, "any other", from, to)})
		alone = append(alone, leftAlone(s, f)...)
		bound = append(bound, datagram(s, "a bound socket", from, to, topology.BindToDevice("eth0")))
	}
	testhost.Shell(t, s.B.Host, "ip address add 169.254.7.7/32 dev eth1")
	testhost.Shell(t, s.B.Host, "ip route add 169.254.9.9 dev eth0")
	linkLocal := netip.AddrPortFrom(netip.MustParseAddr("169.254.7.7"), 0)
	nobody := netip.AddrPortFrom(s.A.Eth1.Address(topology.IPv4), closedPort)
	alone = append(alone, datagram(s, "from a link-local address", linkLocal, nobody))

	wantLeaving(t, s, all, false)
	wantByEth0(t, s, slices.Concat(alone, bound))
	p := product.On(t, s.B.Host)
	p.Start("--config", product.WriteConfig(t, strongHost(s)+fmt.Sprintf(
		"mode: observe\nprotocols: [tcp, udp, icmp, icmpv6, sctp, gre]\nexclude: [{protocol: udp, self_port: %d}]\n", excludedPort)))
	counted := func(labels ...string) int {
		labels = append(labels, "from_interface=eth0", "to_interface=eth1")
		return int(p.Metrics().Sum("replypath_originated_packets_total", labels...))
	}
	because := func(reason string) int {
		return int(p.Metrics().Sum("replypath_originated_routed_packets_total", "reason="+reason))
	}
	observed := wantLeaving(t, s, all, false)
	routed, total, reason := counted("outcome=routed"), counted(), because("observe")
	if routed != observed || routed != total || routed != reason {
		t.Errorf("observed: %d frames left, counted are %d, %d of them as routed and %d as observed", observed, total, routed, reason)
	}
	for _, f := range s.Families() { // whom observing asks for nobody has, nor has enforcing at once
		await.Must(t, s.B.Eth1.Resolve(await.Within(t, await.AnswerTime), s.B.Eth1.Gateway(f)))
	}
	p.Expect(0, "mode", "enforce")
	enforced := wantLeaving(t, s, all, true)
	if moved := counted("outcome=moved"); moved != enforced || counted("outcome=routed") != observed {
		t.Errorf("enforced: %d frames left, %d are counted as moved", enforced, moved)
	}
	before := p.Metrics().Sum("replypath_originated_packets_total")
	left := wantByEth0(t, s, alone)
	if more := p.Metrics().Sum("replypath_originated_packets_total") - before; more > 0 {
		t.Errorf("of %d frames that are left alone %v are counted", left, more)
	}
	frames := wantByEth0(t, s, bound)
	if n, reason := counted("outcome=routed")-observed, because("bound_device"); n != frames || reason != frames {
		t.Errorf("of %d frames of bound sockets %d are counted, %d with the reason", frames, n, reason)
	}
	t.Logf("%d kinds of packets: %d frames by eth0 while observed, %d by eth1 while enforced", len(all), observed, enforced)
	t.Logf("%d kinds of datagrams left as without replypath", len(alone)+len(bound))
}
