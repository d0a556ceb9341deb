// SPDX-License-Identifier: Apache-2.0

package faults

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"

	"replypath/test/await"
	"replypath/test/short"
	"replypath/test/topology"
	"replypath/test/traffic"
	"replypath/test/wire"
)

// linkBack is a way in which eth1 goes and comes back.
type linkBack struct {
	name     string
	lose, be func(*bed)
}

var linksBack = []linkBack{
	{"carrier lost", func(b *bed) { await.Must(b, b.net.Server.Eth1.Peer().SetDown()) }, func(b *bed) {
		await.Must(b, b.net.Server.Eth1.Peer().SetUp())
		b.giveBack(b.net.Server.Eth1.Peer()) // IPv6 takes the addresses off what is down
	}},
	{"link down", func(b *bed) { await.Must(b, b.net.Server.Eth1.SetDown()) }, func(b *bed) {
		await.Must(b, b.net.Server.Eth1.SetUp())
		b.giveBack(b.net.Server.Eth1)
	}},
}

// TestLinkBackWithoutDaemon has eth1 lose its link while a daemon sees it, and get it back when
// that was killed: nobody is there to say so, and what is asked by eth1 is answered by it.
func TestLinkBackWithoutDaemon(t *testing.T) {
	t.Parallel()
	for mechanism, args := range mechanisms {
		for _, link := range linksBack {
			for _, f := range traffic.Families {
				t.Run(mechanism+"/"+link.name+"/"+f.String(), func(t *testing.T) { testLinkBack(t, link, args, f) })
			}
		}
	}
}

func testLinkBack(t *testing.T, link linkBack, args []string, f topology.Family) {
	t.Parallel()
	b := newBed(t, f, anySource)
	// IPv6 takes the addresses off what is set down: one that a daemon has seen go is one that came while none runs.
	await.Must(t, b.net.Server.SetSysctl("net/ipv6/conf/eth1/keep_addr_on_down", "1"))
	d := b.start(args...)
	open := []*traffic.Conversation{b.conversation(traffic.TCP), b.conversation(traffic.UDP)}
	for _, c := range open {
		b.ask(c)
	}
	link.lose(b)
	b.Eventually("the daemon has marked eth1 as down", func() error {
		if !strings.Contains(d.Log.String(), `msg="interface is down" interface=eth1`) {
			return fmt.Errorf("it says:\n%s", d.Log)
		}
		return nil
	})
	d.Kill()
	link.be(b)
	for _, i := range []*topology.Interface{b.net.Server.Eth1, b.net.Server.Eth1.Peer()} {
		await.Must(t, i.WaitReady(await.Within(t, await.AnswerTime)))
	}
	wires := wire.Tap(t, b.net.Server)
	for _, c := range open {
		b.ask(c)
	}
	for _, c := range b.fresh() {
		b.ask(c)
		open = append(open, c)
	}
	left, missed := 0, 0
	for _, c := range open {
		eth0, eth1 := wires.Left(c.Answers())
		left, missed = left+len(eth1), missed+len(eth0)
		wires.WantEth1(c.String(), c.Answers())
	}
	t.Logf("%d answers by eth1, %d by eth0", left, missed)
	if e := b.product.Explain("--peer", open[0].Peer.String(), "--self", open[0].Self.String(), "--protocol", "tcp"); e.Verdict != "corrected" {
		t.Errorf("an answer on an open connection is explained as\n%s", e)
	}
	b.product.Start(args...)
	if down := b.product.Metrics().Sum("replypath_uncorrected_packets_total", "reason=link_down"); down > 0 {
		t.Errorf("%v answers were counted as link_down", down)
	}
}

// TestRouterReplacedWithoutDaemon has eth1's router get another MAC, and say so, while no daemon runs. Where it is a known gateway
// replies go on to its MAC of before, which only a daemon learns anew from the kernel, until one runs; but connections are
// answered, as what is sent again takes another way. Where it is not, they go to who sent the last frame, as with a daemon.
func TestRouterReplacedWithoutDaemon(t *testing.T) {
	t.Parallel()
	quick := short.Run(t)
	for n, known := range []bool{true, false} {
		for k, f := range traffic.Families {
			if quick && k != n {
				continue
			}
			t.Run(fmt.Sprintf("known gateway %t/%s", known, f), func(t *testing.T) { testRouterReplaced(t, known, f) })
		}
	}
}

func testRouterReplaced(t *testing.T, known bool, f topology.Family) {
	t.Parallel()
	options := topology.TwoNICOptions{Policy: topology.AnySource}
	if known {
		options.Eth1Metric = 2000
	}
	b := newBed(t, f, options)
	d := b.start()
	open := b.conversation(traffic.TCP)
	b.ask(open)
	router := b.net.Server.Eth1.Peer()
	before := router.MAC
	b.Eventually("the daemon has eth1's router's MAC", func() error { // status would show what the kernel has
		reachable := b.product.Metrics().Sum("replypath_gateway_reachable", "interface=eth1", "gateway="+router.Address(f).String())
		if known && reachable != 1 {
			return errors.New(d.Log.String())
		}
		return nil
	})
	d.Kill()
	for _, announce := range []string{"ipv4/conf/" + router.Name + "/arp_notify", "ipv6/conf/" + router.Name + "/ndisc_notify"} {
		await.Must(t, router.Host.SetSysctl("net/"+announce, "1"))
	}
	await.Must(t, router.SetMAC(net.HardwareAddr{2, 0, 0, 0, 0xee, 1}))
	wires := wire.Tap(t, b.net.Server)
	all := append(b.fresh(), open)
	answered := b.askAll(all, 10*inVain)
	misdirected := wires.Eth1.Count(topology.All(topology.Going(topology.Received), topology.ToMAC(before), topology.To(b.clientAddress())))
	t.Logf("answered: %v; %d frames to the MAC of before", answered, misdirected)
	switch {
	case known && (len(answered) != 2 || misdirected == 0 ||
		slices.ContainsFunc(answered, func(c *traffic.Conversation) bool { return c.Kind != traffic.TCP })):
		t.Error("not only connections are answered, or no reply goes to the MAC of before")
	case !known && len(answered) < len(all):
		t.Error("replies do not go to who asked")
	}
	b.product.Start()
	for _, kind := range traffic.Kinds {
		b.eventually(b.conversation(kind))
	}
}

// TestFirstStartDuringFault starts for the first time while the production NIC is gone, or its default route:
// connections that are open since before, and new ones, are answered by eth1, during the fault and after it.
func TestFirstStartDuringFault(t *testing.T) {
	t.Parallel()
	quick, isRun := short.Run(t), short.Pairs(t)
	for n, fault := range slices.Delete(slices.Clone(faults), 2, 3) { // without eth0 there is nothing to manage
		for m, mechanism := range []string{"usual", "clsact"} {
			for k, f := range traffic.Families {
				if quick && (n%3 != 0 || m != n/2 || k != n%2) || !quick && !isRun(n, m, k) {
					continue
				}
				t.Run(mechanism+"/"+fault.name+"/"+f.String(), func(t *testing.T) {
					testFirstStart(t, fault, f, mechanisms[mechanism])
				})
			}
		}
	}
}

func testFirstStart(t *testing.T, fault fault, f topology.Family, args []string) {
	t.Parallel()
	b := newBed(t, f, anySource)
	open := []*traffic.Conversation{b.conversation(traffic.TCP), b.conversation(traffic.UDP)}
	for _, c := range open {
		b.ask(c) // answered by eth0
	}
	fault.begin(b)
	if c := b.conversation(traffic.TCP); c.Ask(await.Within(t, inVain)) == nil {
		t.Errorf("%s was answered without replypath", c)
	}
	b.start(args...)
	b.wantShown(fault, true)
	wires := wire.Tap(t, b.net.Server)
	answered := 0
	askAll := func(when string, conversations ...*traffic.Conversation) {
		t.Helper()
		for _, c := range conversations {
			b.askPromptly(when+" "+c.String(), c)
			answered += len(wires.WantEth1(c.String(), c.Answers()))
		}
	}
	askAll("during the fault, open", open...)
	askAll("during the fault, new", b.fresh()...)
	fault.end(b)
	b.Eventually("the host reaches the client as before", func() error { return b.reach(traffic.TCP) })
	b.wantShown(fault, false)
	askAll("afterwards, open", open...)
	askAll("afterwards, new", b.fresh()...)
	t.Logf("%d answers by eth1, 0 by eth0", answered)
}
