// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/gopacket/gopacket/layers"

	"replypath/test/await"
	"replypath/test/host"
	"replypath/test/product"
	"replypath/test/server"
	"replypath/test/topology"
	"replypath/test/traffic"
	"replypath/test/wire"
)

// TestVirtualMAC has eth1's router send from a MAC of its own, and take only what is sent to another, as those of HSRP do: its
// questions are not answered until the configuration names it, as doctor proposes.
func TestVirtualMAC(t *testing.T) {
	n := traffic.NewTwoNIC(t, topology.TwoNICOptions{})
	const physical = "02:00:00:00:99:01"
	inside := n.Server.Eth1.Peer()
	host.Nft(t, n.Replication.Host, `table netdev hsrp {
	chain out { type filter hook egress device "`+inside.Name+`" priority 0
		ether saddr set `+physical+`
	}
}`)
	p := product.On(t, n.Server.Host)
	p.Start("--config", product.WriteConfig(t, product.SmallTables))
	for _, f := range traffic.Families {
		for _, kind := range traffic.Kinds {
			c := traffic.NewConversation(t, kind, n.ClientEth0, n.Server.Eth1.Address(f))
			patience := await.SilenceTime
			if kind == traffic.TCP { // which asks again
				patience = longEnough
			}
			if err := c.Ask(await.Within(t, patience)); err == nil {
				t.Fatalf("%s: answered by a mac that takes nothing", c)
			}
		}
	}
	found := p.Doctor(0).Of("unknown-gateway", "eth1").With("warning", "handshakes came from mac "+physical)
	if len(found) != len(traffic.Families) || !strings.Contains(product.OrEmpty(found[0].Fix), "{name: eth1, gateways: [") {
		t.Fatalf("%+v", found)
	}
	p.Expect(0, "detach", "--stop")
	var gateways []string
	for _, f := range traffic.Families {
		gateways = append(gateways, `"`+n.Server.Eth1.Gateway(f).String()+`"`)
	}
	p.Start("--config", product.WriteConfig(t, product.SmallTables+
		"interfaces: [{name: eth0}, {name: eth1, gateways: ["+strings.Join(gateways, ", ")+"]}]\n"))
	await.Eventually(t, "the gateways have a MAC", func() error {
		for _, g := range p.Status().Interface("eth1").Gateways {
			if g.MAC == nil {
				return fmt.Errorf("%s has none", g.Address)
			}
		}
		return nil
	})
	for _, f := range traffic.Families {
		for _, kind := range traffic.Kinds {
			traffic.Ask(t, traffic.NewConversation(t, kind, n.ClientEth0, n.Server.Eth1.Address(f)))
		}
	}
	onlyOne(t, p.Doctor(0), "unknown-gateway", "", "ok")
}

// TestDirectReturn has both routers drop replies of TCP: no way is answered, which is told while replypath observes, and once it
// enforces. Then they arrive as routed. A handshake teaches that, all commands tell of it, and flows flush forgets it.
func TestDirectReturn(t *testing.T) {
	n := traffic.NewTwoNIC(t, topology.TwoNICOptions{Policy: topology.AnySource})
	for router, nic := range map[*topology.Host]*topology.Interface{n.Replication.Host: n.Server.Eth1, n.Production.Host: n.Server.Eth0} {
		host.Nft(t, router, `table netdev one-way {
	chain in { type filter hook ingress device "`+nic.Peer().Name+`" priority 0
		tcp sport 7 drop
	}
}`)
	}
	p := product.On(t, n.Server.Host)
	p.Start("--config", product.WriteConfig(t, product.SmallTables))
	ask := func(f topology.Family) *traffic.Conversation {
		return traffic.NewConversation(t, traffic.TCP, n.ClientEth0, n.Server.Eth1.Address(f))
	}
	for mode, tried := range map[string]string{"observe": "as routed: replypath only observes there, and enforcing tries other ways", "enforce": "by every way"} {
		p.Expect(0, "mode", mode)
		p.Expect(0, "flows", "flush")
		ctx, stop := context.WithCancel(t.Context())
		for _, f := range traffic.Families {
			go ask(f).Ask(ctx)
		}
		await.Eventually(t, "doctor says that no handshake was completed", func() error {
			if found := p.Doctor(0).Of("sender", "eth1").With("warning", "was completed: 1 was answered "+tried); len(found) != len(traffic.Families) {
				return fmt.Errorf("%+v", found)
			}
			return nil
		})
		if plan := p.Plan(0); mode == "observe" && (plan.Summary != "ready: replypath mode enforce" || len(plan.Mended) == 0) {
			t.Errorf("%s: %+v", plan.Summary, plan.Mended)
		}
		stop()
	}
	p.Expect(0, "mode", "enforce")
	host.Shell(t, n.Production.Host, "nft delete table netdev one-way")
	p.Expect(0, "flows", "flush")
	for _, f := range traffic.Families {
		c := ask(f)
		traffic.Ask(t, c)
		onlyOne(t, p.Doctor(0), "sender", "eth1", "note", "replies of "+c.Self.Addr().String()+" through ", " go as routed, as by eth1 none was completed, learnt at ")
		e := p.Explain("--peer", c.Peer.String(), "--self", c.Self.String(), "--protocol", "tcp")
		flow := p.Flows("--peer", c.Peer.Addr().String())[0]
		if e.Verdict != "direct-return" || product.OrEmpty(e.LeavesBy) != "eth0" || product.OrEmpty(flow.Verdict) != "direct-return" || flow.NextHopMAC != nil {
			t.Errorf("%s; %+v", e, flow)
		}
		c = ask(f)
		trace := p.Trace(func() error { return c.Ask(await.Within(t, await.AnswerTime)) }, "--self", c.Self.Addr().String())
		for _, packet := range trace.Interrupt() { // among them are SYN-ACKs of handshakes that were given up
			if packet.PeerPort == c.Peer.Port() && packet.Direction == "out" && packet.Verdict != "direct-return" {
				t.Error(&packet)
			}
		}
	}
	senders, learnt := p.Status().Senders, p.Metrics().Sum("replypath_ways_learnt_total", "way=direct-return")
	if len(senders) != 2 || senders[0].Way != "direct-return" || learnt != 2 {
		t.Errorf("%+v; %g learnt", senders, learnt)
	}
	p.Expect(0, "flows", "flush", "--interface", "eth1")
	if senders = p.Status().Senders; len(senders) != 0 {
		t.Errorf("after a flush %+v", senders)
	}
}

// TestUnrecordedProtocol has eth1's address asked by protocols of tunnels. They are answered by eth0, and doctor says what to
// list; then they are answered by eth1.
func TestUnrecordedProtocol(t *testing.T) {
	n := traffic.NewTwoNIC(t, topology.TwoNICOptions{Policy: topology.StrictSource})
	p := product.On(t, n.Server.Host)
	config := product.WriteConfig(t, "")
	d := p.Start("--config", config)
	asked := map[topology.Family][]layers.IPProtocol{
		topology.IPv4: {layers.IPProtocolGRE, layers.IPProtocolESP, layers.IPProtocolIPv6},
		topology.IPv6: {layers.IPProtocolGRE, layers.IPProtocolESP},
	}
	answered := func(eth1 bool) {
		for f, protocols := range asked {
			for _, protocol := range protocols {
				self, peer := n.Server.Eth1.Address(f), n.ClientEth0.Address(f)
				server, client := rawSocket(t, n.Server.Host, self, protocol), rawSocket(t, n.Client, peer, protocol)
				wires := wire.Tap(t, n.Server)
				await.Must1[int](t)(client.WriteTo([]byte("request"), &net.IPAddr{IP: self.AsSlice()}))
				await.Must(t, server.SetReadDeadline(time.Now().Add(await.AnswerTime)))
				_, from, err := server.ReadFrom(make([]byte, 100))
				await.Must(t, err)
				await.Must1[int](t)(server.WriteTo([]byte("reply"), from))
				reply := topology.All(topology.Protocol(protocol), topology.From(self), topology.To(peer))
				by := map[bool]*topology.Capture{false: wires.Eth0, true: wires.Eth1}[eth1]
				if _, err := by.Wait(await.Within(t, await.AnswerTime), topology.All(reply, topology.Going(topology.Received))); err != nil {
					t.Errorf("%s: %v", protocol, err)
				}
				wires.Want(eth1, protocol.String(), reply)
			}
		}
	}
	answered(false)
	report := p.Doctor(0)
	for found, word := range map[string]string{"protocol 47 (gre)": "gre", "protocol 50 (esp)": "esp", "protocol 41 (ipv6)": "ipv6"} {
		f := report.Of("unrecorded-protocol", "eth1").With("note", "eth1 brings "+found+", which is not recorded")
		if len(f) != 1 || !strings.Contains(product.OrEmpty(f[0].Fix), "add "+word+" to protocols") {
			t.Errorf("%s: %+v", found, f)
		}
	}
	if m := p.Metrics(); m.Sum("replypath_uncorrected_packets_total") > 0 {
		t.Error("they pass for replies that were not corrected")
	}
	d.Reconfigure("protocols: [tcp, udp, icmp, icmpv6, sctp, gre, esp, ipv6]\n")
	answered(true)
	onlyOne(t, p.Doctor(0), "unrecorded-protocol", "", "ok")
}

// rawSocket sends and takes what an address has to do with of a protocol.
func rawSocket(t *testing.T, host *topology.Host, at netip.Addr, protocol layers.IPProtocol) net.PacketConn {
	t.Helper()
	network := map[bool]string{true: "ip4", false: "ip6"}[at.Is4()]
	conn := await.Must1[net.PacketConn](t)(host.ListenPacket(t.Context(), fmt.Sprintf("%s:%d", network, uint8(protocol)), at.String()))
	t.Cleanup(func() { conn.Close() })
	return conn
}

// TestARPFlux is S5: before the fix both interfaces answer for an address, after it only its own.
func TestARPFlux(t *testing.T) {
	s := traffic.Build(t, topology.NewS5)
	p := product.On(t, s.Server.Host)
	asked := s.Server.Eth1.Address(topology.IPv4)
	if got := macsOf(t, s, asked, 2); got != 2 {
		t.Fatalf("%d interfaces answer for %s, not both", got, asked)
	}
	found := onlyOne(t, p.Doctor(0), "arp-ignore", "eth0", "warning", asked.String()+" of eth1")
	host.Shell(t, s.Server.Host, product.OrEmpty(found.Fix))
	if got := macsOf(t, s, asked, 1); got != 1 {
		t.Errorf("%d interfaces answer for %s after the fix", got, asked)
	}
}

// macsOf counts who answers the neighbour's question for an address of eth1, who always does. It waits for as many as
// are wanted.
func macsOf(t *testing.T, s *topology.S5, asked netip.Addr, want int) int {
	t.Helper()
	at := s.NeighbourEth0
	seen := await.Must1[*topology.Capture](t)(at.Capture(topology.CaptureOptions{}))
	defer func() { await.Must(t, seen.Stop()) }()
	answers := func(f *topology.Frame) bool {
		arp, ok := f.Packet().Layer(layers.LayerTypeARP).(*layers.ARP)
		return ok && arp.Operation == layers.ARPReply
	}
	traffic.NewInjector(t, at).Send(
		&layers.Ethernet{SrcMAC: at.MAC, DstMAC: layers.EthernetBroadcast, EthernetType: layers.EthernetTypeARP},
		&layers.ARP{
			AddrType: layers.LinkTypeEthernet, Protocol: layers.EthernetTypeIPv4, HwAddressSize: 6, ProtAddressSize: 4,
			Operation: layers.ARPRequest, SourceHwAddress: at.MAC, SourceProtAddress: at.Address(topology.IPv4).AsSlice(),
			DstHwAddress: make([]byte, 6), DstProtAddress: asked.AsSlice(),
		})
	await.Must1[*topology.Frame](t)(seen.Wait(await.Within(t, await.AnswerTime), topology.All(answers, topology.FromMAC(s.Server.Eth1.MAC))))
	patience := await.SilenceTime
	if want == 2 {
		patience = await.AnswerTime
	}
	// A second answer is none but eth0's.
	if _, err := seen.WaitCount(await.Within(t, patience), 2, answers); err != nil {
		return 1
	}
	return 2
}

// talks asks eth1's address from afar by every kind, and wants the answers to leave by eth1, or by eth0.
func talks(t *testing.T, n *topology.TwoNIC, f topology.Family, byEth1 bool) {
	t.Helper()
	for _, kind := range traffic.Kinds {
		c := traffic.NewConversation(t, kind, n.ClientEth0, n.Server.Eth1.Address(f))
		for range 3 {
			wire.WantBy(t, n.Server, c, byEth1)
		}
	}
}

// TestObservedWrongWay: replies leave by eth0 while replypath observes. doctor says so, with the command that ends it; once
// it was typed, what was counted before is nothing to be warned of.
func TestObservedWrongWay(t *testing.T) {
	n, p := server.New(t)
	p.Start("--observe", "--listen", "")
	for _, f := range traffic.Families {
		p.Expect(0, "mode", "observe")
		p.Expect(0, "flows", "flush") // of the other family
		onlyOne(t, p.Doctor(0), "wrong-way", "", "ok")
		talks(t, n, f, false)
		found := onlyOne(t, p.Doctor(0), "wrong-way", "eth1", "note", "replies of eth1 leave by eth0: ", "live flows", "packets in all, the last at ", "reason observe", "completed so")
		fix := product.OrEmpty(found.Fix)
		if want := "replypath mode enforce --pin-dir " + p.PinDir + "  # until the next start: leave --observe out then"; fix != want {
			t.Errorf("fix %q, not %q", fix, want)
		}
		p.Expect(0, "mode", "enforce")
		talks(t, n, f, true)
		onlyOne(t, p.Doctor(0), "wrong-way", "", "ok")
	}
}
