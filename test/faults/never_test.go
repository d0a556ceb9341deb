// SPDX-License-Identifier: Apache-2.0

package faults

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"replypath/bpf"
	"replypath/test/await"
	"replypath/test/host"
	"replypath/test/product"
	"replypath/test/topology"
	"replypath/test/traffic"
	"replypath/test/wire"
)

var (
	// answeredWithin is how soon a question by eth1 has an answer whose eth0's gateway has never answered.
	answeredWithin = await.Patient(5 * time.Second)
	// asksAgain is when a client repeats its question, as resolvers do.
	asksAgain = await.Patient(time.Second)
	// foundWithin is how soon a gateway that answers is used: the kernel asks for it once a second.
	foundWithin = await.Patient(2 * time.Second)
)

// newNeverBed has eth0's gateway dead before the server boots, by the kernel's own timers.
func newNeverBed(t *testing.T, f topology.Family) *bed {
	t.Helper()
	b := newPatientBed(t, f, topology.TwoNICOptions{Policy: topology.AnySource, ColdGateways: true})
	host.Nft(t, b.net.Production.Host, silence)
	b.ip("neighbour", "flush", "dev", "eth0")
	// The client repeats a SYN every second, as often as the start on a busy machine may take.
	err := b.net.Client.SetSysctl("net/ipv4/tcp_syn_linear_timeouts", strconv.Itoa(min(int(await.StartTime.Seconds()), 127)))
	if !errors.Is(err, fs.ErrNotExist) { // from 6.5
		await.Must(t, err)
	}
	return b
}

// TestGatewayNeverAnswered boots a server whose production router is dead: without replypath nothing is answered by
// eth1, and with a rule all is. With it all is too, whenever it was asked, what the host starts is refused, and the router is
// used once it answers.
func TestGatewayNeverAnswered(t *testing.T) {
	t.Parallel()
	eachFamily(t, func(t *testing.T, f topology.Family) {
		t.Parallel()
		b := newNeverBed(t, f)
		b.wantNoneAnswered("without replypath")
		b.ruleForEth1("add")
		b.askFresh("with ip rule")
		b.ruleForEth1("del")

		release := product.Quiet(t) // a start may have to wait longer than clients do
		before := b.askMeanwhile("asked before the start")
		wires := wire.Tap(t, b.net.Server)
		b.start()
		started := time.Now()
		release()
		b.askMeanwhile("asked at the start")(started)
		before(started)
		b.awaitHeld()
		b.wantHeldUnknown()
		for _, kind := range traffic.Kinds {
			c := b.conversation(kind)
			b.askPromptly("asked while it is held", c)
			wires.WantEth1(c.String(), c.Answers())
		}
		b.wantHostReaches(false, traffic.TCP, traffic.UDP)
		b.sendUnasked()
		b.wantNoLeak("while nobody knows the gateway", wires.Eth1)
		b.wantNoneToNobody(wires)

		began := time.Now()
		b.wakeGateway()
		b.Eventually("the host reaches the client", func() error { return b.reachWithin(inVain, traffic.TCP) })
		t.Logf("the router is used %s after it answers", since(began))
		if took := time.Since(began); took > foundWithin {
			t.Error("that is too late")
		}
		b.wantKnown()
		b.askFresh("asked afterwards")
		b.wantNoneToNobody(wires)
	})
}

// askMeanwhile has clients ask by each kind, TCP once, the others again and again. What it returns waits until all are
// answered, which has to be soon after a moment.
func (b *bed) askMeanwhile(when string) (wait func(since time.Time)) {
	b.Helper()
	var asking sync.WaitGroup
	answered := make([]time.Time, len(traffic.Kinds))
	for k, kind := range traffic.Kinds {
		tries := []*traffic.Conversation{b.conversation(kind)}
		for kind != traffic.TCP && time.Duration(len(tries))*asksAgain < await.AnswerTime { // the kernel repeats a SYN
			tries = append(tries, b.conversation(kind))
		}
		asking.Go(func() { b.askUntilAnswered(tries); answered[k] = time.Now() })
	}
	return func(since time.Time) {
		b.Helper()
		asking.Wait()
		for k, kind := range traffic.Kinds {
			took := answered[k].Sub(since)
			b.Logf("%s, %s: answered %s after the start", when, kind, took.Round(time.Millisecond))
			if took > answeredWithin {
				b.Errorf("%s, %s: that is too late", when, kind)
			}
		}
	}
}

// askUntilAnswered tries one after the other.
func (b *bed) askUntilAnswered(tries []*traffic.Conversation) {
	var err error
	for k, c := range tries {
		patience := asksAgain
		if k == len(tries)-1 { // or the one, whose SYN the kernel repeats: it waits for the start
			patience = await.StartTime + answeredWithin
		}
		ctx, cancel := context.WithTimeout(b.Context(), patience)
		err = c.Ask(ctx)
		cancel()
		if err == nil {
			return
		}
	}
	b.Errorf("not answered, as those before it: %v", err)
}

func (b *bed) wantNoneAnswered(when string) {
	b.Helper()
	if answered := b.askAll(b.fresh(), answeredWithin); len(answered) > 0 {
		b.Errorf("%s %s were answered", when, answered)
	}
	b.Logf("%s: nothing is answered within %s", when, answeredWithin)
}

// wantHeldUnknown wants entry, status and metrics to tell of a gateway whose MAC nobody knows.
func (b *bed) wantHeldUnknown() {
	b.Helper()
	address := b.net.Server.Eth0.Peer().Address(b.family)
	b.wantShown(fault{name: "gateway that has never answered", holds: true}, true)
	if g := b.gateway(address); g == nil || g.MAC != nil {
		b.Errorf("the status shows %+v", g)
	}
	b.Eventually("the entry is one that the kernel checks", func() error {
		entry := b.neighbour()
		if !strings.Contains(entry, bpf.SilentGateway.String()+" PROBE") {
			return fmt.Errorf("%q", entry)
		}
		return nil
	})
}

// wantKnown wants that the gateway's own MAC is in its entry, and in the status.
func (b *bed) wantKnown() {
	b.Helper()
	gateway := b.net.Server.Eth0.Peer()
	b.Eventually("the gateway is known", func() error {
		g := b.gateway(gateway.Address(b.family))
		if entry := b.neighbour(); !strings.Contains(entry, gateway.MAC.String()) || g == nil || g.MAC == nil || *g.MAC != gateway.MAC.String() || g.State == "held" {
			return fmt.Errorf("%q, in the status %+v", entry, g)
		}
		return nil
	})
}

// wantNoneToNobody wants that no frame has left for a MAC that nobody has.
func (b *bed) wantNoneToNobody(wires *wire.Wires) {
	b.Helper()
	eth0, eth1 := wires.Left(topology.OneOf(topology.ToMAC(bpf.SilentGateway), topology.ToMAC(bpf.AnyPeer)))
	if len(eth0)+len(eth1) > 0 {
		b.Errorf("frames left for nobody: %s, %s", wire.Describe(eth0), wire.Describe(eth1))
	}
}

// neighbourSettings are the sysctls of eth0's neighbours.
func (b *bed) neighbourSettings() string {
	b.Helper()
	return host.Shell(b, b.net.Server.Host, "sysctl -a -r '^net\\.ipv[46]\\.neigh\\.eth0\\.'")
}

// TestGatewayNeverAnsweredLetGo holds such a gateway where the fallback route is wanted, over a restart, and no more once it
// is not, or once IPv6 has another router: nothing of what was done stays, and the kernel goes over to the other one.
func TestGatewayNeverAnsweredLetGo(t *testing.T) {
	t.Parallel()
	eachFamily(t, func(t *testing.T, f topology.Family) {
		t.Parallel()
		b := newNeverBed(t, f)
		before := host.TakeSnapshot(t, b.net.Server.Host, "eth0", "eth1")
		const off = "fallback_route: false\n"
		config := product.WriteConfig(t, off)
		d := b.start("--config", config)
		b.wantNoneAnswered("with fallback_route: false")
		if b.isHeld() || strings.Contains(b.neighbour(), "lladdr") {
			t.Errorf("the gateway is %s, its entry %q", b.gatewayState(), b.neighbour())
		}
		b.reload(d, config, "")
		b.awaitHeld()
		b.reload(d, config, off)
		b.wantLetGo()
		b.reload(d, config, "")
		b.awaitHeld()
		d.Stop(syscall.SIGTERM)
		b.product.Start("--config", config)
		b.awaitHeld() // taken over
		b.ask(b.conversation(traffic.TCP))
		b.product.Expect(0, "detach", "--stop")
		if entry := b.neighbour(); strings.Contains(entry, bpf.SilentGateway.String()) {
			t.Errorf("after detach the entry is %q", entry)
		}
		b.wantSnapshot(before)
	})
	t.Run("another router/ipv6", func(t *testing.T) {
		t.Parallel()
		b := newNeverBed(t, topology.IPv6)
		b.start()
		b.awaitHeld()
		b.wantHostReaches(false, traffic.TCP)
		b.ip("route", "add", "default", "via", b.net.Server.Eth1.Gateway(b.family).String(), "dev", "eth1", "metric", "2048")
		b.wantLetGo()
		b.Eventually("the host reaches the client by the other router", func() error {
			return b.reachWithin(inVain, traffic.TCP)
		})
	})
}

// wantLetGo wants eth0's gateway to be held no more, and its entry without the MAC that nobody has.
func (b *bed) wantLetGo() {
	b.Helper()
	began := time.Now()
	b.Eventually("the gateway is let go", func() error {
		if entry := b.neighbour(); b.isHeld() || strings.Contains(entry, bpf.SilentGateway.String()) {
			return fmt.Errorf("%s, its entry %q", b.gatewayState(), entry)
		}
		return nil
	})
	b.Logf("let go %s after that", since(began))
	if took := time.Since(began); took > foundWithin {
		b.Error("that is too late")
	}
}
