// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"replypath/test/await"
	"replypath/test/host"
	"replypath/test/product"
	"replypath/test/short"
	"replypath/test/topology"
	"replypath/test/traffic"
	"replypath/test/wire"
)

// TestStrongHostRestarts has B hold a hundred connections that it began from eth1's address, half of them by IPv6, and
// ask in all of them while the daemon ends, is killed, and starts again: none breaks, and no packet leaves by eth0.
func TestStrongHostRestarts(t *testing.T) {
	s := newBeginner(t, topology.StrictSource)
	p, d := product.StartOn(t, s.B.Host, "--config", product.WriteConfig(t, strongHost(s)))
	awaitResolved(t, p)
	var all []*traffic.Conversation
	for n := range 100 {
		c := fromEth1(t, s, traffic.TCP, s.Families()[n%2])
		traffic.Ask(t, c)
		all = append(all, c)
	}
	wires := wire.Tap(t, s.B)
	ctx, stop := context.WithCancel(t.Context())
	asked := make([]int, len(all))
	var asks errgroup.Group
	for n, c := range all {
		asks.Go(func() error {
			for ctx.Err() == nil {
				if err := c.Ask(await.Within(t, await.AnswerTime)); err != nil {
					return fmt.Errorf("%s: %w", c, err)
				}
				asked[n]++
			}
			return nil
		})
	}
	restarts := 3
	if short.Run(t) {
		restarts = 1
	}
	for range restarts {
		d.Stop(unix.SIGTERM)
		d = p.Start("--config", d.Config)
		d.Kill()
		d = p.Start("--config", d.Config)
	}
	stop()
	await.Must(t, asks.Wait())
	for n, c := range all {
		if asked[n] == 0 {
			t.Errorf("%s: nothing was asked meanwhile", c)
		}
		if eth0, _ := wires.Left(c.Questions()); len(eth0) > 0 {
			t.Errorf("%s: %d questions left by eth0", c, len(eth0))
		}
	}
	t.Logf("%d connections went on over %d restarts", len(all), 2*restarts)
}

// TestStrongHostBesideRules: where a rule sends what B begins by eth1 already, the strong host model finds it right,
// moves nothing, and takes it over without a break when the rule goes.
func TestStrongHostBesideRules(t *testing.T) {
	s := ruled(t)
	p := product.On(t, s.B.Host)
	var kept []*traffic.Conversation
	for _, f := range s.Families() {
		c := fromEth1(t, s, traffic.TCP, f)
		traffic.Ask(t, c)
		kept = append(kept, c)
	}
	p.Start("--config", product.WriteConfig(t, strongHost(s)))
	awaitResolved(t, p)
	eachBegun(t, s, "by rule", func(t *testing.T, c *traffic.Conversation) { wantBegun(t, s, c) })
	await.Same(t, "packets that were taken for originated by the wrong side, beside rules", 0, p.Metrics().Sum("replypath_originated_packets_total"))
	host.Shell(t, s.B.Host, "ip rule del priority 100")
	host.Shell(t, s.B.Host, "ip -6 rule del priority 100")
	for _, c := range kept {
		wires := wire.Tap(t, s.B)
		traffic.Ask(t, c)
		wires.WantEth1(c.String()+" when its rule has gone", c.Questions())
	}
	eachBegun(t, s, "without rules", func(t *testing.T, c *traffic.Conversation) { wantBegun(t, s, c) })
}

// lasting is S1 with connections that B has opened from eth1's address, one of each family, and all that they send.
type lasting struct {
	*topology.S1
	t       *testing.T
	p       *product.Product
	open    []*traffic.Conversation
	wires   *wire.Wires
	arrived *topology.Capture // at A
	gateway net.HardwareAddr  // of eth1
}

// TestStrongHostAnswered: connections that B opened from eth1's address keep to eth1, whatever changes, and each of their
// frames is counted once.
func TestStrongHostAnswered(t *testing.T) {
	s := newBeginner(t, topology.StrictSource)
	// A captured frame is one segment then, as it is counted.
	for _, nic := range []*topology.Interface{s.B.Eth1, s.B.Eth1.Peer()} {
		await.Must(t, nic.SetOffloads(topology.WireExact))
	}
	for _, f := range s.Families() {
		wantBegunLost(t, s, fromEth1(t, s, traffic.TCP, f))
	}
	l := &lasting{S1: s, t: t, p: product.On(t, s.B.Host), gateway: s.B.Eth1.Peer().MAC}
	d := l.p.Start("--config", product.WriteConfig(t, strongHost(s)))
	awaitResolved(l.t, l.p)
	l.wires, l.arrived = wire.Tap(t, s.B), wire.Capture(t, s.A.Eth1)
	for _, f := range s.Families() {
		c := fromEth1(t, s, traffic.TCP, f)
		traffic.Ask(t, c)
		l.open = append(l.open, c)
	}
	l.wantCounted()
	l.goOn()
	for _, c := range l.open {
		wantExplained(t, l.p, c)
	}
	d.Kill()
	l.goOn()
	d = l.p.Start("--config", d.Config)
	l.goOn()
	l.changeGateway()
	l.beWeak(d)
	l.goOn()
	l.end()
}

// goOn wants the connections to go on by eth1.
func (l *lasting) goOn() {
	l.t.Helper()
	l.wantByEth1()
	l.wantCounted()
}

// changeGateway has another machine take over the address of eth1's gateway, which says so as routers do.
func (l *lasting) changeGateway() {
	router := l.B.Eth1.Peer()
	await.Must(l.t, router.Host.SetSysctl("net/ipv4/conf/"+router.Name+"/arp_notify", "1"))
	await.Must(l.t, router.Host.SetSysctl("net/ipv6/conf/"+router.Name+"/ndisc_notify", "1"))
	l.gateway = net.HardwareAddr{2, 0, 0, 0, 0xfe, 1}
	await.Must(l.t, router.SetMAC(l.gateway))
	for _, f := range l.Families() {
		waitGatewayMAC(l.t, l.p, "eth1", router.Address(f), l.gateway)
	}
	l.wantByEth1()
	l.wantCounted()
}

// beWeak changes the host model to weak, by which what is sent goes as routed, and back: it is sent again, by eth1.
func (l *lasting) beWeak(d *product.Daemon) {
	l.goOn()
	d.Reconfigure("related: false\n" + strings.Replace(strongHost(l.S1), "strong", "weak", 1))
	exits, asked := wire.TapAll(l.t, l.B.Eth0, l.B.Eth1), make(chan error, len(l.open))
	for _, c := range l.open {
		go func() { asked <- c.Ask(await.Within(l.t, await.AnswerTime)) }()
	}
	for _, c := range l.open {
		wait(l.t, exits.At(l.B.Eth0), c.Questions())
		exits.Want(c.String()+", by the weak model", c.Questions(), l.B.Eth0, l.B.Eth0.Peer().MAC)
	}
	d.Reconfigure(strongHost(l.S1))
	for range l.open {
		if err := <-asked; err != nil {
			l.t.Errorf("it does not go on: %v", err)
		}
	}
}

// end closes the connections. The last segment of each acknowledges the peer's end.
func (l *lasting) end() {
	for _, c := range l.open {
		wire.End(l.t, c, l.wires.Eth1, c.Questions())
		peerEnded, ends := false, topology.All(c.Answers(), topology.Flags(topology.FIN, topology.FIN))
		wait(l.t, l.wires.Eth1, func(f *topology.Frame) bool {
			peerEnded = peerEnded || ends(f)
			return peerEnded && c.Questions()(f)
		})
	}
	l.wantCounted()
	for _, c := range l.open {
		eth0, eth1 := l.wires.Left(c.Questions())
		arrived, err := l.arrived.WaitCount(await.Within(l.t, await.AnswerTime), len(eth1), c.Questions())
		if err != nil || len(arrived) != len(eth1) {
			l.t.Errorf("%s: %d frames reached A, %d left by eth1: %v", c, len(arrived), len(eth1), err)
		}
		l.t.Logf("%s: %d frames left by eth1, each counted once, and %d by eth0 while the model was weak",
			topology.FamilyOf(c.Peer.Addr()), len(eth1), len(eth0))
	}
}

// wantByEth1 asks questions of several sizes, and wants all that B sends to leave by eth1 to its gateway.
func (l *lasting) wantByEth1() {
	l.t.Helper()
	for _, c := range l.open {
		exit{l.B.NICs(), l.B.Eth1, l.gateway}.wantQuestions(l.t, c)
	}
}

// wantCounted wants what has left by eth1 to be listed as moved, as soon as nothing is on its way, and not as a flow.
func (l *lasting) wantCounted() {
	l.t.Helper()
	await.Eventually(l.t, "each frame is counted once", func() (err error) {
		moved := make(map[string]uint64)
		for _, f := range l.p.Flows("--originated", "--protocol", "tcp") {
			moved[f.Self] = f.CorrectedPackets
		}
		for _, c := range l.open {
			if _, eth1 := l.wires.Left(c.Questions()); moved[c.Peer.Addr().String()] != uint64(len(eth1)) {
				err = errors.Join(err, fmt.Errorf("%s: %d are listed, %d frames left", c, moved[c.Peer.Addr().String()], len(eth1)))
			}
		}
		return err
	})
	if list := l.p.Flows("--protocol", "tcp"); len(list) > 0 {
		l.t.Errorf("flows: %v", list)
	}
}
