// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"bytes"
	"maps"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"replypath/test/await"
	"replypath/test/product"
	"replypath/test/topology"
	"replypath/test/traffic"
	"replypath/test/wire"
)

// clients is how many ping through the box of S4.
const clients = 30_000

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
		ping := pingFrame(inside.MAC, s.Bond0.MAC, s.Client(f, number+1), s.InternetEth0.Address(f))
		await.Must(t, gopacket.SerializeLayers(buffer, options, ping...))
		c.pings = append(c.pings, bytes.Clone(buffer.Bytes()))
	}
	return c
}

// pingFrame puts an echo request into a frame.
func pingFrame(fromMAC, toMAC net.HardwareAddr, from, to netip.Addr) []gopacket.SerializableLayer {
	const id, sequence = 77, 1
	if from.Is4() {
		ethernet, ip := ipHeaders(fromMAC, toMAC, from, to, layers.IPProtocolICMPv4)
		return []gopacket.SerializableLayer{ethernet, ip,
			&layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(layers.ICMPv4TypeEchoRequest, 0), Id: id, Seq: sequence}}
	}
	ethernet, ip := ipHeaders(fromMAC, toMAC, from, to, layers.IPProtocolICMPv6)
	icmp := &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(layers.ICMPv6TypeEchoRequest, 0)}
	_ = icmp.SetNetworkLayerForChecksum(ip.(gopacket.NetworkLayer))
	return []gopacket.SerializableLayer{ethernet, ip, icmp, &layers.ICMPv6Echo{Identifier: id, SeqNumber: sequence}}
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
	p := product.On(t, s.Box)
	p.Start()
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
	if n := p.Metrics().Sum("replypath_corrected_packets_total"); n != float64(moved) {
		t.Errorf("%v packets corrected, but %d frames of the management", n, moved)
	}
}
