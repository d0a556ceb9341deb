// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"fmt"
	"math"
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

// figure is a rate of a look, and the count that all of them are to come to.
type figure struct {
	what string
	rate func(*product.Look) float64
	want uint64
}

// of returns the rate of an interface.
func of(name string, rate func(*product.LookedAt) float64) func(*product.Look) float64 {
	return func(l *product.Look) float64 {
		for i := range l.Interfaces {
			if l.Interfaces[i].Name == name {
				return rate(&l.Interfaces[i])
			}
		}
		return math.NaN()
	}
}

func toPackets(i *product.LookedAt) float64   { return i.To.Packets }
func toBytes(i *product.LookedAt) float64     { return i.To.Bytes }
func fromPackets(i *product.LookedAt) float64 { return i.From.Packets }
func fromBytes(i *product.LookedAt) float64   { return i.From.Bytes }
func asymmetric(i *product.LookedAt) float64  { return i.Packets }
func observed(i *product.LookedAt) float64    { return i.Uncorrected["observe"] }

// wantFigures waits until the rates of all looks come to what was captured, and wants them to stay there.
func wantFigures(t *testing.T, top *product.Top, figures []figure) {
	t.Helper()
	check := func() error {
		looks := top.Looks()
		for _, f := range figures {
			if got := product.Sum(looks, f.rate); got != f.want {
				return fmt.Errorf("%s: the rates of %d looks come to %d, captured were %d", f.what, len(looks), got, f.want)
			}
		}
		return nil
	}
	await.Eventually(t, "the rates agree with the frames", check)
	top.WaitLooks(len(top.Looks()) + 2)
	await.Must(t, check())
	for _, f := range figures {
		t.Logf("%s: %d", f.what, f.want)
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
			if code := top.WaitEnd(); code != 0 {
				t.Errorf("an interrupted top exits with %d:\n%s", code, top.Log)
			}
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
func ratesOf(eth0, eth1 []*topology.Frame) []figure {
	left, moved, bytes := uint64(len(eth0)), uint64(len(eth1)), wire.Bytes(eth1)
	return []figure{
		{"packets to eth1", of("eth1", toPackets), moved},
		{"bytes to eth1", of("eth1", toBytes), bytes},
		{"packets from eth0", of("eth0", fromPackets), moved},
		{"bytes from eth0", of("eth0", fromBytes), bytes},
		{"packets to eth0", of("eth0", toPackets), 0},
		{"packets from eth1", of("eth1", fromPackets), 0},
		{"asymmetric packets of eth1", of("eth1", asymmetric), left + moved},
		{"uncorrected packets of eth1", of("eth1", observed), left},
		{"packets in all", func(l *product.Look) float64 { return l.Total.Corrected.Packets }, moved},
		{"bytes in all", func(l *product.Look) float64 { return l.Total.Corrected.Bytes }, bytes},
		{"asymmetric packets in all", func(l *product.Look) float64 { return l.Total.Packets }, left + moved},
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
	var figures []figure
	for _, c := range b.conversations {
		_, eth1 := wires.Left(c.Answers())
		figures = append(figures, figure{c.String(), func(l *product.Look) float64 {
			for _, f := range l.Flows {
				if f.Protocol == c.Protocol() && f.Peer == c.Peer.Addr().String() && f.PeerPort == c.Peer.Port() {
					return f.Rate
				}
			}
			return 0
		}, uint64(len(eth1))})
	}
	wantFigures(t, top, figures)
	for _, l := range top.Looks() {
		for i := 1; i < len(l.Flows); i++ {
			if l.Flows[i-1].Rate < l.Flows[i].Rate {
				t.Errorf("%s before the busier %s", l.Flows[i-1], l.Flows[i])
			}
		}
	}
}
