// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"replypath/test/await"
	testhost "replypath/test/host"
	"replypath/test/product"
	"replypath/test/short"
	"replypath/test/topology"
	"replypath/test/traffic"
	"replypath/test/wire"
)

// TestContainer has a server publish a port of a container, and route to the container's own address. Answers of the
// published port leave by the interface that was asked, in fragments as well, as what the container says of a port where
// nobody listens. Those from its own address do so only with `scope: all`.
func TestContainer(t *testing.T) {
	s, _ := newS7(t, topology.StrictSource)
	promptErrors(t, s.Container)
	testhost.Nft(t, s.Server.Host, `table inet closed {
		chain published { type nat hook prerouting priority -110
			fib daddr type local udp dport 81 dnat ip to 10.17.0.100:81
			fib daddr type local udp dport 81 dnat ip6 to [2001:db8:17::100]:81
		}
	}`)
	refuse := func(t *testing.T, eth1 bool) {
		for _, f := range traffic.Families {
			answer := topology.All(icmpOf(f, portUnreachable.error[f]), topology.To(s.ClientEth0.Address(f)))
			refusal{"udp", 81, 10, "", connectionRefused}.want(t, s.TwoNIC, f, answer, eth1)
		}
	}
	routed := func(t *testing.T, f topology.Family, kind traffic.Kind) *traffic.Conversation {
		return traffic.NewConversation(t, kind, s.ClientEth0, s.ContainerEth0.Address(f))
	}
	lost := func(t *testing.T, f topology.Family, kind traffic.Kind) {
		wantLost(t, s.Server, routed(t, f, kind), s.ClientEth0)
	}
	for _, f := range traffic.Families {
		loseLarge(t, s.TwoNIC, published(t, s, traffic.UDP, s.Server.Eth1, f))
	}
	refuse(t, false)
	sampled(t, traffic.Families, "without replypath", lost)

	p, d := product.StartOn(t, s.Server.Host, "--config", product.WriteConfig(t, "scope: local\n"))
	t.Run("fragments", func(t *testing.T) {
		for _, f := range traffic.Families {
			before := countedBy(p)
			frames := wantLargeAnswers(t, s.Server, published(t, s, traffic.UDP, s.Server.Eth1, f), 3)
			wantCounted(t, p, before, frames, true)
		}
	})
	t.Run("closed port", func(t *testing.T) { refuse(t, true) })
	sampled(t, traffic.Families, "scope local", lost)
	d.Reconfigure("scope: all\n")
	traffic.EachQuestion(t, "scope all", func(t *testing.T, f topology.Family, kind traffic.Kind) {
		c := routed(t, f, kind)
		wantAnswers(t, s.Server, c, true)
		if kind != traffic.TCP {
			wantLargeAnswers(t, s.Server, c, 1)
		}
	})
}

// wantLargeAnswers asks with large datagrams, and wants all fragments of the answers by eth1.
func wantLargeAnswers(t *testing.T, server *topology.Server, c *traffic.Conversation, questions int) []*topology.Frame {
	t.Helper()
	wires := wire.Tap(t, server)
	for range questions {
		await.Must(t, c.AskFor(await.Within(t, await.AnswerTime), largeDatagram))
	}
	frames := wires.WantEth1(c.String(), answersOf(c))
	if len(frames) != questions*largeFragments {
		t.Errorf("%s: %s", c, wire.Describe(frames))
	}
	return frames
}

// TestForwarded has a server forward for a container, where routers bring questions by either interface and take answers
// by either.
func TestForwarded(t *testing.T) {
	s := traffic.NewS7(t, topology.TwoNICOptions{Policy: topology.AnySource})
	pass := newTransit(t, s)
	before := pass()
	p, d := product.StartOn(t, s.Server.Host, "--config", product.WriteConfig(t, product.SmallTables))
	t.Run("untouched", func(t *testing.T) {
		await.Same(t, "what came out of the server (-without +with replypath)", before, pass())
		if flows := p.In(t).Flows(); len(flows) > 0 {
			t.Errorf("forwarded packets became the flows %v", flows)
		}
		await.Same(t, "forwarded packets counted as asymmetric", 0, p.In(t).Metrics().Sum("replypath_asymmetric_packets_total"))
	})
	d.Reconfigure(product.SmallTables + "scope: all\n")
	p.WaitGrace()
	t.Run("begun with scope all", func(t *testing.T) { testContainerBegins(t, s) })

	d.Reconfigure(product.SmallTables)
	publish(t, s)
	redirectPort(t, s.TwoNIC)
	t.Run("moves", func(t *testing.T) { testContainerMoves(t, s, p.In(t)) })
}

// testContainerBegins has the container ask, by eth0 as routed, and wants its questions to stay there although their
// answers come in by eth1.
func testContainerBegins(t *testing.T, s *topology.S7) {
	for _, f := range traffic.Families {
		traffic.Serve(t, s.Client, s.ClientEth0.Address(f))
		for _, kind := range traffic.Kinds {
			wires := wire.Tap(t, s.Server)
			c := traffic.NewConversation(t, kind, s.ContainerEth0, s.ClientEth0.Address(f))
			for range 5 {
				traffic.Ask(t, c)
			}
			wires.WantEth0(c.String(), c.Questions())
			if wires.Eth1.Count(topology.All(c.Answers(), topology.Going(topology.Sent))) == 0 {
				t.Errorf("%s: no answer came in by eth1", c)
			}
		}
	}
}

// newTransit returns what sends frames of all kinds through a server, between neighbours that do not exist, so that nobody
// answers. It returns what came out, by way and family.
func newTransit(t *testing.T, s *topology.S7) (pass func() map[string][]string) {
	t.Helper()
	far := addresses("10.9.0.200", "2001:db8:9::200")
	behindEth1 := addresses("10.2.0.77", "2001:db8:2::77")
	contained := addresses("10.17.0.200", "2001:db8:17::200")
	for _, f := range traffic.Families {
		await.Must(t, s.Bridge.AddNeighbour(contained[f], s.ContainerEth0.MAC))
		testhost.Shell(t, s.Production.Host, "ip route add blackhole "+far[f].String())
	}
	ways := map[string]struct {
		from, nic, to *topology.Interface // where a frame is injected, comes in, and comes out
		src, dst      map[topology.Family]netip.Addr
	}{
		"eth1 to container": {s.Server.Eth1.Peer(), s.Server.Eth1, s.ContainerEth0, far, contained},
		"container to eth0": {s.ContainerEth0, s.Bridge.Interface, s.Server.Eth0.Peer(), contained, far},
		"eth1 to eth0":      {s.Server.Eth1.Peer(), s.Server.Eth1, s.Server.Eth0.Peer(), behindEth1, far},
	}
	return func() map[string][]string {
		t.Helper()
		came := make(map[string][]string)
		for name, w := range ways {
			injector := traffic.NewInjector(t, w.from)
			for _, f := range traffic.Families {
				out := wire.Capture(t, w.to)
				frames := transitFrames(w.from, w.nic, w.src[f], w.dst[f])
				for _, frame := range frames {
					injector.Send(frame...)
				}
				these := topology.All(topology.Going(topology.Received), topology.From(w.src[f]), topology.To(w.dst[f]))
				got, err := out.WaitCount(await.Within(t, await.AnswerTime), len(frames), these)
				if err != nil {
					t.Fatalf("%s, %s: %v", name, f, err)
				}
				for _, frame := range got {
					came[name+" "+f.String()] = append(came[name+" "+f.String()], fmt.Sprintf("%s: %x", frame, frame.Data))
				}
			}
		}
		return came
	}
}

// transitFrames are packets of every kind that forwarding treats alike.
func transitFrames(from, nic *topology.Interface, src, dst netip.Addr) []packet {
	frames := []packet{
		segmentFrame(from.MAC, nic.MAC, src, dst, &layers.TCP{SrcPort: 4000, DstPort: 80, Seq: 1, SYN: true, Window: 1000}),
		segmentFrame(from.MAC, nic.MAC, src, dst, &layers.TCP{SrcPort: 4000, DstPort: 80, Seq: 2, Ack: 7, ACK: true, Window: 1000}),
		segmentFrame(from.MAC, nic.MAC, src, dst, &layers.TCP{SrcPort: 80, DstPort: 4001, Seq: 5, Ack: 9, SYN: true, ACK: true, Window: 1000}),
		segmentFrame(from.MAC, nic.MAC, src, dst, &layers.TCP{SrcPort: 80, DstPort: 4001, Seq: 6, RST: true}),
		traffic.Datagram{FromMAC: from.MAC, ToMAC: nic.MAC, From: netip.AddrPortFrom(src, 5000), To: netip.AddrPortFrom(dst, 53)}.Layers(),
		traffic.Datagram{FromMAC: from.MAC, ToMAC: nic.MAC, From: netip.AddrPortFrom(src, 53), To: netip.AddrPortFrom(dst, 5001)}.Layers(),
	}
	echoes := map[topology.Family][]kind{topology.IPv4: {{8, 0}, {0, 0}}, topology.IPv6: {{128, 0}, {129, 0}}}
	for _, echo := range echoes[topology.FamilyOf(src)] {
		frames = append(frames, icmpFrame(from.MAC, nic.MAC, src, dst, echo, []byte{0, 77, 0, 1}))
	}
	ethernet, ip := traffic.IPHeaders(from.MAC, nic.MAC, src, dst, layers.IPProtocolESP)
	return append(frames, packet{ethernet, ip, gopacket.Payload(slices.Repeat([]byte{0xe5}, 40))})
}

// detour takes the client's way to eth1's addresses through the production
// router, so that it comes in by eth0, or takes it back.
func detour(t *testing.T, n *topology.TwoNIC, f topology.Family, on bool) {
	t.Helper()
	server := netip.PrefixFrom(n.Server.Eth1.Address(f), n.Server.Eth1.Address(f).BitLen())
	core := await.Must1[*topology.Interface](t)(n.Production.Interface("core"))
	routes := map[*topology.Host]topology.Route{
		n.Core.Host:       {Destination: server, Via: core.Address(f)},
		n.Production.Host: {Destination: server, Via: n.Server.Eth0.Address(f)},
	}
	for host, route := range routes {
		if on {
			await.Must(t, host.AddRoute(route))
		} else {
			await.Must(t, host.RemoveRoute(route))
		}
	}
}

// testContainerMoves changes the way that a client's segments come in: a TCP flow of a container, and one of a port that is
// redirected, follows at once, as what was seen of the connection decides where no socket is found; one without
// connections when three questions, in ten seconds, have come by the other way alone. A forged segment moves nothing.
func testContainerMoves(t *testing.T, s *topology.S7, p *product.Product) {
	moves := func() float64 { return p.Metrics().Sum("replypath_flow_moves_total", "protocol=tcp") }
	contested := func() float64 { return p.Metrics().Sum("replypath_flow_moves_refused_total", "reason=contested") }
	eth0 := s.Server.Eth0
	injector := traffic.NewInjector(t, eth0.Peer())
	for _, f := range traffic.Families {
		conversations := []*traffic.Conversation{askRedirected(t, s.TwoNIC, traffic.TCP, f)}
		for _, kind := range traffic.Kinds {
			conversations = append(conversations, published(t, s, kind, s.Server.Eth1, f))
		}
		for _, c := range conversations {
			wire.WantBy(t, s.Server, c, true)
			if c.Kind == traffic.TCP {
				before := contested()
				injector.Send(segmentFrame(eth0.Peer().MAC, eth0.MAC, c.Peer.Addr(), c.Self.Addr(), &layers.TCP{
					SrcPort: layers.TCPPort(c.Peer.Port()), DstPort: layers.TCPPort(c.Self.Port()), ACK: true, Seq: 1, Ack: 1, Window: 1000})...)
				testhost.Settle(t, s.Production, eth0)
				await.Same(t, c.String()+": moves counted as contested", 1, contested()-before)
				wire.WantBy(t, s.Server, c, true)
			}
			before := moves()
			for _, eth1 := range []bool{false, true} {
				detour(t, s.TwoNIC, f, !eth1)
				if c.Kind != traffic.TCP {
					for range 2 { // the present way is up, and the other one new
						wire.WantBy(t, s.Server, c, !eth1)
						p.Age(6 * time.Second)
					}
				}
				wire.WantBy(t, s.Server, c, eth1)
			}
			if more := moves() - before; c.Kind == traffic.TCP && more != 2 {
				t.Errorf("%s: %v moves were counted, not 2", c, more)
			}
			await.Must(t, c.Close()) // or an acknowledgement that comes late moves it
		}
	}
}

// Virtual addresses, which no interface has: the rules of the recipe name the first, those below none.
var (
	named   = addresses("10.60.0.7", "2001:db8:60::7")
	unnamed = addresses("10.60.0.10", "2001:db8:60::10")
)

const whateverComes = `table inet whatever { chain prerouting { type nat hook prerouting priority -90
	iifname "eth1" meta l4proto { tcp, udp } th dport 80 dnat ip to 10.17.0.100:8080
	iifname "eth1" meta l4proto { tcp, udp } th dport 80 dnat ip6 to [2001:db8:17::100]:8080
}; }`

// newVirtual builds S7, in which the routers bring packets to virtual addresses by eth1.
func newVirtual(t *testing.T) *topology.S7 {
	t.Helper()
	s := traffic.NewS7(t, topology.TwoNICOptions{Policy: topology.StrictSource})
	core := await.Must1[*topology.Interface](t)(s.Replication.Interface("core"))
	for f, network := range map[topology.Family]string{topology.IPv4: "10.60.0.0/24", topology.IPv6: "2001:db8:60::/64"} {
		to := netip.MustParsePrefix(network)
		await.Must(t, s.Core.AddRoute(topology.Route{Destination: to, Via: core.Address(f)}))
		await.Must(t, s.Replication.AddRoute(topology.Route{Destination: to, Via: s.Server.Eth1.Address(f)}))
		traffic.ServeAt(t, s.Container, netip.AddrPortFrom(s.ContainerEth0.Address(f), 8080))
	}
	return s
}

// TestVirtualAddresses has a host that forwards translate addresses that no interface has to a container. By default the
// answers go where they were asked if the rules name the address, as soon as they do; else `addresses` names it, and doctor
// says so. The rules of kube-proxy and iptables are in loader/netfilter.
func TestVirtualAddresses(t *testing.T) {
	s, page := newVirtual(t), testhost.ReadRecipe(t, "load-balancer-vips")
	each := func(name string, virtual map[topology.Family]netip.Addr, want func(c *traffic.Conversation)) {
		for i, f := range s.Families() {
			kinds := traffic.Kinds[1:] // nobody answers pings
			if short.Run(t) {
				kinds = kinds[i : i+1]
			}
			for _, kind := range kinds {
				c := traffic.NewConversation(t, kind, s.ClientEth0, virtual[f])
				c.Self = netip.AddrPortFrom(c.Self.Addr(), publishedPort)
				t.Run(name+"/"+f.String()+"/"+string(kind), func(*testing.T) { want(c) })
			}
		}
	}
	lost := func(c *traffic.Conversation) { wantLost(t, s.Server, c, s.ClientEth0) }
	answered := func(c *traffic.Conversation) { wantAnswers(t, s.Server, c, true) }
	page.Run(s.Server.Host, "The translation")
	each("without replypath", named, lost)
	testhost.Shell(t, s.Server.Host, "nft flush ruleset")
	p, d := product.StartOn(t, s.Server.Host, "--config", product.WriteConfig(t, "scope: local\n"))
	page.Run(s.Server.Host, "The translation")
	installed := time.Now()
	wantServed(t, p, named, "firewall", true)
	if took := time.Since(installed); took > await.Patient(time.Second) {
		t.Errorf("the rule counts after %s", took)
	}
	each("named by rules", named, answered)
	testhost.Nft(t, s.Server.Host, whateverComes)
	each("named by nobody", unnamed, lost)
	for f, virtual := range unnamed {
		if len(p.Examine().Of("translated-address", "").With("warning", virtual.String(), s.ContainerEth0.Address(f).String())) == 0 {
			t.Errorf("doctor does not name %s", virtual)
		}
	}
	d.Reconfigure(page.Text("With replypath", "yaml"))
	wantServed(t, p, unnamed, "configuration", true)
	each("named by the configuration", unnamed, answered)
	testhost.Shell(t, s.Server.Host, "nft delete table inet vips")
	wantServed(t, p, named, "firewall", false)
}

// wantServed waits until an address is, or is not, served although no interface has it.
func wantServed(t *testing.T, p *product.Product, addresses map[topology.Family]netip.Addr, source string, served bool) {
	t.Helper()
	for _, virtual := range addresses {
		await.Eventually(t, fmt.Sprintf("%s is served: %v", virtual, served), func() error {
			list := p.Status().Addresses
			is := slices.ContainsFunc(list, func(a product.Served) bool {
				return netip.MustParsePrefix(a.Network).Contains(virtual) && a.Source == source
			})
			if is != served {
				return fmt.Errorf("%v", list)
			}
			return nil
		})
	}
}
