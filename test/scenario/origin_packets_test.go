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
	"replypath/test/host"
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
		all = append(all, leaving{p.String(), topology.All(p.answer(f), topology.From(s.B.Eth1.Address(f))), func(t *testing.T) {
			traffic.NewInjector(t, at).Send(p.frame(at.MAC, toMAC, s.A.Eth1.Address(f), s.B.Eth1.Address(f))...)
		}})
	}
	add(protocolUnreachable, s.B.Eth1.Peer(), s.B.Eth1.MAC)
	add(portUnreachable, inside, inside.Peer().MAC)
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

// TestStrongHostPackets has B originate what is neither TCP nor UDP from eth1's address: SCTP, a listed protocol, and
// ICMP errors about what became no flow. Observed it leaves by eth0, where it is lost; enforced by eth1. What the
// strong host model leaves alone goes by eth0 as without replypath, and is not counted. Only of a socket that is
// bound to eth0 the reason is.
func TestStrongHostPackets(t *testing.T) {
	s := newBeginner(t, topology.StrictSource)
	inside := hostBehind(t, s)
	promptErrors(t, s.B.Host)
	var all, alone, bound []leaving
	for _, f := range s.Families() {
		from, to := netip.AddrPortFrom(s.B.Eth1.Address(f), 0), netip.AddrPortFrom(s.A.Eth1.Address(f), closedPort)
		all = slices.Concat(all, rawPackets(s, f), ownErrors(s, inside, f), []leaving{datagram(s, "any other", from, to),
			datagram(s, "a renewal", netip.AddrPortFrom(from.Addr(), dhcpPorts[f][0]), netip.AddrPortFrom(to.Addr(), dhcpPorts[f][1]))})
		alone = append(alone, leftAlone(s, f)...)
		bound = append(bound, datagram(s, "a bound socket", from, to, topology.BindToDevice("eth0")))
	}
	wantLeaving(t, s, all, false)
	wantLeaving(t, s, slices.Concat(alone, bound), false)
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
	left := wantLeaving(t, s, alone, false)
	if more := p.Metrics().Sum("replypath_originated_packets_total") - before; more > 0 {
		t.Errorf("of %d frames that are left alone %v are counted", left, more)
	}
	frames := wantLeaving(t, s, bound, false)
	if n, reason := counted("outcome=routed")-observed, because("bound_device"); n != frames || reason != frames {
		t.Errorf("of %d frames of bound sockets %d are counted, %d with the reason", frames, n, reason)
	}
	t.Logf("%d kinds of packets: %d frames by eth0 while observed, %d by eth1 while enforced", len(all), observed, enforced)
	t.Logf("%d kinds of datagrams left as without replypath", len(alone)+len(bound))
}

const excludedPort = 8008

// leftAlone are packets that the strong host model does not heed, though eth1's address is their source.
func leftAlone(s *topology.S1, f topology.Family) []leaving {
	eth1, a := s.B.Eth1.Address(f), s.A.Eth1.Address(f)
	return []leaving{
		datagram(s, "an exclusion", netip.AddrPortFrom(eth1, excludedPort), netip.AddrPortFrom(a, closedPort)),
		rawPacket(s, f, experimental), // not listed
	}
}

// datagram is one that B sends.
func datagram(s *topology.S1, name string, from, to netip.AddrPort, options ...topology.SocketOption) leaving {
	frames := topology.All(topology.UDP, topology.From(from.Addr()), topology.To(to.Addr()), topology.ToPort(to.Port()))
	return leaving{name, frames, func(t *testing.T) {
		conn := await.Must1[net.PacketConn](t)(s.B.ListenPacket(t.Context(), "udp", from.String(), options...))
		defer conn.Close()
		await.Must1[int](t)(conn.WriteTo([]byte("datagram"), net.UDPAddrFromAddrPort(to)))
	}}
}

// TestStrongHostWithoutGateway: where no gateway of eth1 is known, what B begins goes as routed, and explain says
// why; but to a neighbour of eth1's, for whose MAC the kernel asks, by eth1. With a gateway all of it goes by eth1.
func TestStrongHostWithoutGateway(t *testing.T) {
	s := newBeginner(t, topology.StrictSource)
	p, _ := product.StartOn(t, s.B.Host, "--config", product.WriteConfig(t, "host_model: strong\n"))
	want := func(t *testing.T, c *traffic.Conversation, verdict, reason, leavesBy string) {
		t.Helper()
		e := explained(t, p, reversed(c))
		wantVerdict(t, e, verdict, reason)
		if by, kernel, way := product.OrEmpty(e.LeavesBy), product.OrEmpty(e.Kernel.Interface), product.OrEmpty(e.Replypath.Interface); by != leavesBy ||
			kernel != "eth0" || way != "eth1" || (e.Replypath.NextHopMAC == nil) != (reason != "") {
			t.Errorf("%s: %s", c, e)
		}
	}
	eachBegun(t, s, "without a gateway", func(t *testing.T, c *traffic.Conversation) {
		want(t, c, "fallback", "no_next_hop", "eth0")
		wantBegunLost(t, s, c)
		want(t, c, "fallback", "no_next_hop", "eth0")
		wantOriginated(t, p, c, "routed")
	})
	m := p.Metrics()
	if all, reason := m.Sum("replypath_originated_packets_total"), m.Sum("replypath_originated_routed_packets_total", "reason=no_next_hop"); reason == 0 || reason != all {
		t.Errorf("of %v packets %v have the reason", all, reason)
	}
	onLink(t, s, p)
	for _, f := range s.Families() { // of no peer's: it only names the gateway
		host.Shell(t, s.B.Host, fmt.Sprintf("ip route add default via %s dev eth1 metric 5000", s.B.Eth1.Gateway(f)))
		awaitAnswer(t, fromEth1(t, s, traffic.Ping, f))
	}
	eachBegun(t, s, "with a gateway", func(t *testing.T, c *traffic.Conversation) {
		want(t, c, "strong-host", "", "eth1")
		wantBegun(t, s, c)
	})
}

// awaitAnswer asks until an answer comes: what waits for a MAC is lost.
func awaitAnswer(t *testing.T, c *traffic.Conversation) {
	t.Helper()
	await.Eventually(t, c.String()+" is answered", func() error {
		return c.Ask(await.Within(t, 4*await.SilenceTime))
	})
}

// onLink has B begin to a neighbour of eth1's, to whom a route leads by eth0.
func onLink(t *testing.T, s *topology.S1, p *product.Product) {
	t.Helper()
	neighbour := s.B.Eth1.Peer()
	for _, f := range s.Families() {
		traffic.Serve(t, s.Replication.Host, neighbour.Address(f))
		route := fmt.Sprintf(" %s via %s", neighbour.Address(f), s.B.Eth0.Gateway(f))
		host.Shell(t, s.B.Host, "ip route add"+route)
		defer host.Shell(t, s.B.Host, "ip route del"+route)
	}
	p.Expect(0, "mode", "observe")
	sampled(t, s.Families(), "observe", func(t *testing.T, f topology.Family, kind traffic.Kind) {
		c, wires := traffic.NewConversation(t, kind, s.B.Eth1, neighbour.Address(f)), wire.Tap(t, s.B)
		err := c.Ask(await.Within(t, 4*await.SilenceTime))
		if _, eth1 := wires.Left(c.Questions()); len(eth1) > 0 {
			t.Errorf("%d questions left by eth1: %v", len(eth1), err)
		}
	})
	p.Expect(0, "mode", "enforce")
	traffic.EachQuestion(t, "on link", func(t *testing.T, f topology.Family, kind traffic.Kind) {
		host.Shell(t, s.B.Host, "ip neighbour flush dev eth1")
		awaitAnswer(t, traffic.NewConversation(t, traffic.Ping, s.B.Eth1, neighbour.Address(f)))
		c, wires := traffic.NewConversation(t, kind, s.B.Eth1, neighbour.Address(f)), wire.Tap(t, s.B)
		traffic.AskSizes(t, c)
		wires.WantEth1(c.String(), c.Questions())
	})
}
