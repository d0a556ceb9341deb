// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"replypath/test/await"
	"replypath/test/product"
	"replypath/test/topology"
	"replypath/test/traffic"
	"replypath/test/wire"
)

// busyServer is a server with conversations that come in by eth1, and replypath attached and left alone.
type busyServer struct {
	*topology.TwoNIC
	product       *product.Product
	conversations []*traffic.Conversation
}

// converse has new conversations ask, each more often than the one before.
func (b *busyServer) converse(t *testing.T) {
	t.Helper()
	for _, f := range traffic.Families {
		for i, kind := range traffic.Kinds {
			c := traffic.NewConversation(t, kind, b.ClientEth0, b.Server.Eth1.Address(f))
			b.conversations = append(b.conversations, c)
			for range 3 * (i + 1) {
				await.Must(t, c.AskFor(await.Within(t, await.AnswerTime), 1000))
			}
		}
	}
}

// answers are the frames of all conversations together.
func (b *busyServer) answers(f *topology.Frame) bool {
	for _, c := range b.conversations {
		if c.Answers()(f) {
			return true
		}
	}
	return false
}

// figures are what the rates of looks come to, by what they are of.
func figures(looks []product.Look) map[string]uint64 {
	sums := make(map[string]float64)
	for _, l := range looks {
		add := func(what string, rate float64) { sums[what] += rate * l.Seconds }
		for _, i := range l.Interfaces {
			add("packets to "+i.Name, i.To.Packets)
			add("bytes to "+i.Name, i.To.Bytes)
			add("packets from "+i.Name, i.From.Packets)
			add("bytes from "+i.Name, i.From.Bytes)
			add("asymmetric packets of "+i.Name, i.Packets)
			add("uncorrected packets of "+i.Name, i.Uncorrected["observe"])
		}
		add("packets in all", l.Total.Corrected.Packets)
		add("bytes in all", l.Total.Corrected.Bytes)
		add("asymmetric packets in all", l.Total.Packets)
		for _, f := range l.Flows {
			add(fmt.Sprintf("%s %s:%d", f.Protocol, f.Peer, f.PeerPort), f.Rate)
		}
	}
	counts := make(map[string]uint64)
	for what, sum := range sums {
		counts[what] = uint64(math.Round(sum))
	}
	return counts
}

// wantFigures waits until the rates of all looks come to what was captured, and wants them to stay there.
func wantFigures(t *testing.T, top *product.Top, want map[string]uint64) {
	t.Helper()
	check := func() error {
		looks := top.Looks()
		got := figures(looks)
		for what, count := range want {
			if got[what] != count {
				return fmt.Errorf("%s: the rates of %d looks come to %d, captured were %d", what, len(looks), got[what], count)
			}
		}
		return nil
	}
	await.Eventually(t, "the rates agree with the frames", check)
	top.WaitLooks(len(top.Looks()) + 2)
	await.Must(t, check())
	for _, what := range slices.Sorted(maps.Keys(want)) {
		t.Logf("%s: %d", what, want[what])
	}
}

// TestTop compares the rates that top shows with the frames that leave: in mode observe by eth0, else by eth1. It goes on
// while the daemon starts, with tables of another size, and ends with the datapath.
func TestTop(t *testing.T) {
	n := traffic.NewTwoNIC(t, topology.TwoNICOptions{Policy: topology.AnySource, Offloads: topology.WireExact})
	p, d := product.StartOn(t, n.Server.Host)
	d.Kill()
	for _, mode := range []string{"observe", "enforce"} {
		t.Run(mode, func(t *testing.T) {
			b := &busyServer{TwoNIC: n, product: p.In(t)}
			b.product.Expect(0, "mode", mode)
			top := b.product.Top()
			wires := wire.Tap(t, b.Server)
			b.converse(t)
			eth0, eth1 := wires.Left(b.answers)
			wantFigures(t, top, ratesOf(eth0, eth1))
			checkLooks(t, top.Looks(), mode)
			b.wantBusiest(t, top, wires)
			top.Signal(unix.SIGINT)
			top.WantEnd(0)
		})
	}
	t.Run("goes on", func(t *testing.T) {
		b := &busyServer{TwoNIC: n, product: p.In(t)}
		top := b.product.Top()
		wires := wire.Tap(t, b.Server)
		b.converse(t)
		b.product.Start("--config", product.WriteConfig(t, product.SmallTables)).Kill()
		b.converse(t)
		eth0, eth1 := wires.Left(b.answers)
		wantFigures(t, top, ratesOf(eth0, eth1))
		b.wantBusiest(t, top, wires)
		b.product.Detach()
		if code := top.WaitEnd(); code != 1 || len(top.Log.Lines("no datapath is pinned")) != 1 {
			t.Errorf("after detach it ends with %d:\n%s", code, top.Log)
		}
	})
}

// ratesOf is what has to be shown where these frames, which belong to eth1 and were routed by eth0, left.
func ratesOf(eth0, eth1 []*topology.Frame) map[string]uint64 {
	left, moved, bytes := uint64(len(eth0)), uint64(len(eth1)), wire.Bytes(eth1)
	return map[string]uint64{
		"packets to eth1": moved, "bytes to eth1": bytes, "packets from eth0": moved, "bytes from eth0": bytes,
		"packets to eth0": 0, "packets from eth1": 0, "packets in all": moved, "bytes in all": bytes,
		"asymmetric packets of eth1": left + moved, "uncorrected packets of eth1": left, "asymmetric packets in all": left + moved,
	}
}

// checkLooks wants what does not change, and intervals that fill the time.
func checkLooks(t *testing.T, looks []product.Look, mode string) {
	t.Helper()
	for i := range looks {
		l := &looks[i]
		if l.Mode != mode || l.Daemon.Running || len(l.Interfaces) != 2 ||
			!l.Interfaces[0].Attached || !l.Interfaces[1].Attached {
			t.Errorf("a look: %+v", l)
		}
		if i == 0 {
			continue
		}
		passed := l.Time.Sub(looks[i-1].Time)
		if passed < 100*time.Millisecond || math.Abs(passed.Seconds()-l.Seconds) > 1e-3 {
			t.Errorf("rates over %gs, %s after the last", l.Seconds, passed)
		}
	}
	for _, table := range looks[len(looks)-1].FlowTables {
		if table.Capacity == 0 || table.Table != "half_open" && table.Flows == 0 {
			t.Errorf("a table: %+v", table)
		}
	}
}

// wantBusiest compares each flow's rates with the frames of its conversation. In
// each look the busiest flows come first.
func (b *busyServer) wantBusiest(t *testing.T, top *product.Top, wires *wire.Wires) {
	t.Helper()
	want := make(map[string]uint64)
	for _, c := range b.conversations {
		_, eth1 := wires.Left(c.Answers())
		want[fmt.Sprintf("%s %s:%d", c.Protocol(), c.Peer.Addr(), c.Peer.Port())] = uint64(len(eth1))
	}
	wantFigures(t, top, want)
	for _, l := range top.Looks() {
		for i := 1; i < len(l.Flows); i++ {
			if l.Flows[i-1].Rate < l.Flows[i].Rate {
				t.Errorf("%s before the busier %s", l.Flows[i-1], l.Flows[i])
			}
		}
	}
}
