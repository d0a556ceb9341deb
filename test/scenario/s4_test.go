// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"bytes"
	"maps"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/vishvananda/netlink"

	"replypath/bpf"
	"replypath/test/await"
	testhost "replypath/test/host"
	"replypath/test/product"
	"replypath/test/topology"
	"replypath/test/traffic"
	"replypath/test/wire"
)

// newS4 builds the box, with the translation that its recipe shows.
func newS4(t *testing.T) (*topology.S4, *testhost.Recipe) {
	t.Helper()
	s, recipe := traffic.NewS4(t), testhost.ReadRecipe(t, "s4-nat-box")
	recipe.Run(s.Box, "The box")
	return s, recipe
}

// managed returns the box as a server with its default route by bond1 that is asked by eth0.
func managed(s *topology.S4) *topology.Server {
	return &topology.Server{Host: s.Box, Eth0: s.Bond1, Eth1: s.Eth0}
}

// TestS4 manages the box by eth0 while its default route is by bond1, with replypath and by the rules of the recipe.
func TestS4(t *testing.T) {
	s, page := newS4(t)
	manage := func(f topology.Family, kind traffic.Kind) *traffic.Conversation {
		return traffic.NewConversation(t, kind, s.MonitorEth0, s.Eth0.Address(f))
	}
	lost := func(t *testing.T, f topology.Family, kind traffic.Kind) {
		wantLost(t, managed(s), manage(f, kind), s.MonitorEth0)
	}
	sampled(t, s.Families(), "without replypath", lost)
	p, _ := product.StartOn(t, s.Box)
	traffic.EachQuestion(t, "with replypath", func(t *testing.T, f topology.Family, kind traffic.Kind) {
		wantAnswers(t, managed(s), manage(f, kind), true)
		// Who asks from the outside is answered there.
		outside := traffic.NewConversation(t, kind, s.InternetEth0, s.Bond1.Address(f))
		wantAnswers(t, managed(s), outside, false)
	})
	p.Expect(0, "detach", "--stop")
	sampled(t, s.Families(), "after detach", lost)
	page.Run(s.Box, "With ip rule")
	sampled(t, s.Families(), "ip rule", func(t *testing.T, f topology.Family, kind traffic.Kind) {
		wantAnswers(t, managed(s), manage(f, kind), true)
	})
	page.Run(s.Box, "With replypath")
}

// TestS4Turned has the default route by eth0 and a rule by incoming interface for what is forwarded, as the recipe
// shows: now it is the outside address that is answered by the wrong side.
func TestS4Turned(t *testing.T) {
	s, page := newS4(t)
	page.Run(s.Box, "The other way round")
	for _, f := range s.Families() {
		await.Must(t, s.Eth0.Resolve(await.Within(t, await.AnswerTime), s.Eth0.Gateway(f)))
	}
	// As its owner wanted it: with its default route by eth0, asked by bond1.
	turned := &topology.Server{Host: s.Box, Eth0: s.Eth0, Eth1: s.Bond1}
	ask := func(f topology.Family, kind traffic.Kind) *traffic.Conversation {
		return traffic.NewConversation(t, kind, s.InternetEth0, s.Bond1.Address(f))
	}
	sampled(t, s.Families(), "without replypath", func(t *testing.T, f topology.Family, kind traffic.Kind) {
		wantLost(t, turned, ask(f, kind), s.InternetEth0)
	})
	product.On(t, s.Box).Start()
	traffic.EachQuestion(t, "with replypath", func(t *testing.T, f topology.Family, kind traffic.Kind) {
		wantAnswers(t, turned, ask(f, kind), true)
		wantAnswers(t, turned, traffic.NewConversation(t, kind, s.MonitorEth0, s.Eth0.Address(f)), false)
		askAsClient(t, s, f, kind)
	})
}

// askAsClient asks the internet from a client's address, and wants the question to leave by bond1.
func askAsClient(t *testing.T, s *topology.S4, f topology.Family, kind traffic.Kind) {
	t.Helper()
	wires := wire.Tap(t, managed(s))
	client := *s.Bond0.Peer()
	client.Addresses = []netip.Prefix{netip.PrefixFrom(s.Client(f, 7), s.Client(f, 7).BitLen())}
	c := traffic.NewConversation(t, kind, &client, s.InternetEth0.Address(f))
	traffic.Ask(t, c)
	wires.WantEth0("a client's question", topology.To(c.Self.Addr()))
}

// neighbours returns how many neighbour entries a host has, without those for multicast
// and the like, and without those that replypath has for the routes of bound sockets.
func neighbours(t *testing.T, host *topology.Host) int {
	t.Helper()
	count := 0
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		entries, err := host.Netlink().NeighList(0, family)
		await.Must(t, err)
		for _, entry := range entries {
			if entry.State&netlink.NUD_NOARP == 0 && !bytes.Equal(entry.HardwareAddr, bpf.AnyPeer) {
				count++
			}
		}
	}
	return count
}

// clients is how many ping through the box of S4.
const clients = 30_000

var echoRequest = kinds(kind{8, 0}, kind{128, 0})

// crowd is as many clients of the inside host, each with its own address, and their pings.
type crowd struct {
	t        *testing.T
	s        *topology.S4
	family   topology.Family
	injector *traffic.Injector
	pings    []gopacket.Payload // as frames
}

func newCrowd(t *testing.T, s *topology.S4, f topology.Family) *crowd {
	t.Helper()
	inside := s.Bond0.Peer()
	c := &crowd{t: t, s: s, family: f, injector: traffic.NewInjector(t, inside)}
	buffer := gopacket.NewSerializeBuffer()
	options := gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}
	for number := range clients {
		ping := icmpFrame(inside.MAC, s.Bond0.MAC, s.Client(f, number+1), s.InternetEth0.Address(f), echoRequest[f], []byte{0, 77, 0, 1})
		await.Must(t, gopacket.SerializeLayers(buffer, options, ping...))
		c.pings = append(c.pings, bytes.Clone(buffer.Bytes()))
	}
	return c
}

func (c *crowd) send(pings []gopacket.Payload) {
	c.t.Helper()
	c.injector.Flood(len(pings), func(n int) []gopacket.SerializableLayer {
		return []gopacket.SerializableLayer{pings[n]}
	})
}

// wantAnswers has all of them ping, and wants every one to be answered.
func (c *crowd) wantAnswers() {
	c.t.Helper()
	answers := topology.All(topology.EchoReply, topology.From(c.s.InternetEth0.Address(c.family)))
	missing := make(map[netip.Addr]gopacket.Payload)
	for n, ping := range c.pings {
		missing[c.s.Client(c.family, n+1)] = ping
	}
	for range 3 { // the kernel drops packets where the whole machine has too many on their way
		inside := wire.Capture(c.t, c.s.Bond0.Peer())
		c.send(slices.Collect(maps.Values(missing)))
		_, _ = inside.WaitCount(await.Within(c.t, time.Second), len(missing), answers)
		for _, answer := range inside.Frames(answers) {
			delete(missing, answer.Destination)
		}
	}
	if len(missing) > 0 {
		c.t.Errorf("%d clients were not answered", len(missing))
	}
}

// TestS4Crowd forwards 30,000 clients: all are answered, none of them leaves a trace in replypath, the neighbour
// table stays at a handful of entries, and the management is answered by eth0 meanwhile.
func TestS4Crowd(t *testing.T) {
	s, _ := newS4(t)
	askAsClients := func() {
		for _, f := range s.Families() {
			for _, kind := range traffic.Kinds {
				askAsClient(t, s, f, kind)
			}
		}
	}
	askAsClients()
	before := neighbours(t, s.Box)
	p, _ := product.StartOn(t, s.Box)
	p.WaitGrace()
	wires := wire.Tap(t, managed(s))
	var management []topology.Filter // its answers
	var talks []*traffic.Talk
	for _, f := range s.Families() {
		c := traffic.NewConversation(t, traffic.TCP, s.MonitorEth0, s.Eth0.Address(f))
		management = append(management, c.Answers())
		talks = append(talks, c.Keep(t))
	}
	for _, f := range s.Families() {
		newCrowd(t, s, f).wantAnswers()
	}
	askAsClients()
	for _, talk := range talks {
		talk.Stop()
	}
	if n := neighbours(t, s.Box); n > before+2 || n > 12 {
		t.Errorf("%d neighbour entries, %d before", n, before)
	}
	for _, f := range p.Flows() {
		if f.Self != s.Eth0.Address(topology.IPv4).String() && f.Self != s.Eth0.Address(topology.IPv6).String() {
			t.Errorf("a flow of a client was recorded: %s", f)
		}
	}
	moved := len(wires.WantEth1("management", topology.OneOf(management...)))
	await.Same(t, "packets corrected, those of the management", float64(moved), p.Metrics().Sum("replypath_corrected_packets_total"))
}
