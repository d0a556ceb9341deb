// SPDX-License-Identifier: Apache-2.0

// Package floods floods a server that has live connections: none of them may lose its
// interface, move or be reset, and the counters have to show what came.
package floods

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/vishvananda/netlink"

	"replypath/test/await"
	"replypath/test/product"
	"replypath/test/short"
	"replypath/test/topology"
	"replypath/test/traffic"
)

func TestMain(m *testing.M) { product.Main(m) }

const (
	// tableSize is flow_table.max_entries, and config has it.
	tableSize = 16_384
	config    = "flow_table: {max_entries: 16384}\n"

	connections   = 1000
	conversations = 100
	// floodPort has an echo server for datagrams of its own: else it would be the
	// socket's buffer that the conversations lose to the flood. Nobody is at closedPort.
	floodPort, closedPort = 9, 10
)

// sizes are how many times tableSize each flood has.
var sizes = []int{1, 10, 50}

// flood is one kind.
type flood struct {
	name     string
	protocol string // that the counters have it under; empty for that of the connections
	frames   func(*victim) frames
	nic      func(*topology.Server) *topology.Interface
	// counted are what rises by one with every frame, all added up; none for what a counter cannot tell
	// from the flows' own.
	counted []counter
	// onlyIPv6 has such frames, and the largest flood would tell no more of them.
	onlyIPv6 bool
}

// counter is a metric with a label.
type counter struct{ metric, label string }

func (c counter) String() string { return c.metric + "{" + c.label + "}" }

func eth0(s *topology.Server) *topology.Interface { return s.Eth0 }
func eth1(s *topology.Server) *topology.Interface { return s.Eth1 }

var (
	halfOpen       = counter{"replypath_flow_admissions_total", "table=half_open"}
	connectionless = counter{"replypath_flow_admissions_total", "table=connectionless"}
	noSocket       = counter{"replypath_ignored_packets_total", "reason=no_socket"}
	unexpected     = counter{"replypath_ignored_packets_total", "reason=segment"}
	contested      = counter{"replypath_flow_moves_refused_total", "reason=contested"}
	sourceRoute    = counter{"replypath_unparsed_packets_total", "reason=source_route"}
)

// otherMAC is that of somebody else in eth1's network.
var otherMAC = net.HardwareAddr{2, 0xbb, 0, 0, 0, 1}

// kinds are all floods. Those from strangers come by eth1, as the connections do.
var kinds = []flood{
	{name: "SYNs", protocol: "tcp", frames: func(v *victim) frames {
		return segments(v, []uint16{v.port}, layers.TCP{SYN: true})
	}, nic: eth1, counted: []counter{halfOpen}},
	{name: "ACKs", protocol: "tcp", frames: func(v *victim) frames {
		return segments(v, []uint16{v.port, closedPort}, layers.TCP{ACK: true, Ack: 1})
	}, nic: eth1, counted: []counter{noSocket, unexpected}},
	{name: "datagrams", protocol: "udp", frames: func(v *victim) frames { return datagrams(v, floodPort) },
		nic: eth1, counted: []counter{connectionless}},
	{name: "echo requests", protocol: "icmp", frames: pings, nic: eth1, counted: []counter{connectionless}},
	{name: "spoofed FINs and RSTs by eth0", frames: func(v *victim) frames {
		return spoofs(v, v.n.Server.Eth0, v.n.Server.Eth0.Peer().MAC)
	}, nic: eth0, counted: []counter{contested}},
	{name: "spoofed FINs and RSTs from another MAC", frames: func(v *victim) frames {
		return spoofs(v, v.n.Server.Eth1, otherMAC)
	}, nic: eth1, counted: []counter{contested}},
	{name: "spoofed FINs and RSTs through their own router", frames: func(v *victim) frames {
		return spoofs(v, v.n.Server.Eth1, v.n.Server.Eth1.Peer().MAC)
	}, nic: eth1},
	// What the host answers with an error is recorded for a moment, as who opens a connection is.
	{name: "routing headers", frames: routed, nic: eth1, counted: []counter{sourceRoute}, onlyIPv6: true},
}

// TestFloods has 1,000 connections and 100 conversations live through every flood. Nine
// of ten are in use while it goes on, the others are silent until it is over.
func TestFloods(t *testing.T) {
	sizes := sizes
	if short.Run(t) {
		sizes = sizes[:1]
	} else if !short.Long(t, "the largest floods") {
		sizes = sizes[:2]
	}
	for _, f := range traffic.Families {
		t.Run(f.String(), func(t *testing.T) {
			newVictim(t, f, config, connections, conversations).withstandAll(t, sizes)
		})
	}
}

// TestFloodsByClsact is the same with the smallest floods, where the programs are attached the other way: what they
// return means something else there, and what they pass on is for filters that come after them.
func TestFloodsByClsact(t *testing.T) {
	const mechanism = "clsact"
	for _, f := range traffic.Families {
		t.Run(f.String(), func(t *testing.T) {
			v := newVictim(t, f, config, connections, conversations, "--mechanism", mechanism)
			for _, i := range v.p.Status().Interfaces {
				if product.OrEmpty(i.Mechanism) != mechanism {
					t.Fatalf("%s is not attached by %s", i.Name, mechanism)
				}
			}
			v.withstandAll(t, sizes[:1])
		})
	}
}

// withstandAll floods the victim in every way, with so many times tableSize each.
func (v *victim) withstandAll(t *testing.T, sizes []int) {
	traffic.ServeAt(t, v.n.Server.Host, netip.AddrPortFrom(v.asked, floodPort))
	sent := 0 // strangers are others every time
	for n, kind := range kinds {
		sizes, isOther := sizes, (n%2 == 0) != (v.family == topology.IPv4)
		if kind.onlyIPv6 && v.family == topology.IPv4 || !kind.onlyIPv6 && isOther && testing.Short() {
			continue
		} else if kind.onlyIPv6 {
			sizes = sizes[:min(len(sizes), 2)]
		}
		for _, times := range sizes {
			t.Run(fmt.Sprintf("%s/%d", kind.name, times), func(t *testing.T) {
				sent += v.withstand(t, kind, sent, times*tableSize)
			})
		}
	}
}

// withstand floods the victim, and wants that nothing comes of it but counts. It returns how many strangers came.
func (v *victim) withstand(t *testing.T, kind flood, from, count int) int {
	before := v.p.Metrics()
	d := v.flood(t, kind, from, count)
	if complaints := d.String(); complaints != "" {
		t.Error(complaints)
	}
	after := v.p.Metrics()
	rose := 0.0
	for _, c := range kind.counted {
		rose += after.Sum(c.metric, c.label) - before.Sum(c.metric, c.label)
	}
	silent := v.silent()
	t.Logf("%s: %d connections, %d conversations, of which %d and %d silent, %d new connections, %d x %d %s in %.1f s: "+
		"%v moved, %d reset, %d of %d packets by eth0, %d complaints about the silent; "+
		"counted %v of %d (%d more were lost before) in %s",
		v.family, len(v.connections), len(v.conversations), len(silent.connections), len(silent.conversations), d.newcomers,
		count/tableSize, tableSize, kind.name, d.took.Seconds(),
		d.moved, len(d.resets), len(d.strayed), len(d.strayed)+d.answers, len(d.silent),
		rose, d.sent-d.lost, d.lost, kind.counted)
	// A new connection may count as well, and something else may have been lost.
	if kind.counted != nil && (rose < float64(count) || rose > float64(d.sent+d.newcomers)) {
		t.Errorf("%v were counted, of %d that were sent and %d that reached the server", rose, d.sent, d.sent-d.lost)
	}
	return d.sent
}

// flood sends frames while everything live is in use, and judges.
func (v *victim) flood(t *testing.T, kind flood, from, count int) *verdict {
	t.Helper()
	defer product.Quiet(t)() // or the cable thins the flood out
	w, before := v.tap(t), v.p.Metrics()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var meanwhile sync.WaitGroup
	var broken, refused error
	newcomers := 0
	meanwhile.Go(func() { _, broken = keep(ctx, pace, func() error { return v.useAll(ctx, v.busy()) }) })
	meanwhile.Go(func() { newcomers, refused = keep(ctx, openingPace, v.openOne) })
	begun := time.Now()
	sent, lost := v.pour(t, kind, from, count)
	took := time.Since(begun)
	cancel()
	meanwhile.Wait()
	silent, silentErr := v.wake(t)
	err := errors.Join(broken, refused, silentErr)
	if err == nil {
		err = v.useAll(t.Context(), v.live)
	}
	d := v.judge(w, before, v.p.Metrics(), kind.protocol, err)
	d.took, d.newcomers, d.sent, d.lost, d.silent = took, newcomers, sent, lost, silent
	return d
}

// mostLost is how much of what is sent may be lost on its way to the server, as one part
// of so many: a flood that the cable thins out is none.
const mostLost = 10

// pour sends frames until so many have reached the server: what the cable has lost is sent again, as others.
func (v *victim) pour(t *testing.T, kind flood, from, count int) (sent, lost int) {
	t.Helper()
	cable, frames := kind.nic(v.n.Server).Peer(), kind.frames(v)
	injector := traffic.NewInjector(t, cable)
	// The kernel drops what the processor that receives does not keep up with.
	dropped := func() int {
		return int(await.Must1[netlink.Link](t)(cable.Link()).Attrs().Statistics.TxDropped)
	}
	before := dropped()
	for sent-lost < count {
		missing, next := count-(sent-lost), from+sent
		injector.Flood(missing, func(number int) []gopacket.SerializableLayer { return frames(next + number) })
		sent, lost = sent+missing, dropped()-before
		if lost > count/mostLost {
			t.Fatalf("%d of %d frames were lost on the cable", lost, sent)
		}
	}
	return sent, lost
}
