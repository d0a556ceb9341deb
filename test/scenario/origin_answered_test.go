// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"

	"replypath/test/await"
	"replypath/test/product"
	"replypath/test/topology"
	"replypath/test/traffic"
	"replypath/test/wire"
)

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
	config := product.WriteConfig(t, strongHost(s))
	l := &lasting{S1: s, t: t, p: product.On(t, s.B.Host), gateway: s.B.Eth1.Peer().MAC}
	d := l.p.Start("--config", config)
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
	d = l.p.Start("--config", config)
	l.goOn()
	l.changeGateway()
	l.beWeak(d, config)
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
func (l *lasting) beWeak(d *product.Daemon, config string) {
	l.goOn()
	reload(l.t, d, config, "related: false\n"+strings.Replace(strongHost(l.S1), "strong", "weak", 1))
	exits, asked := wire.TapAll(l.t, l.B.Eth0, l.B.Eth1), make(chan error, len(l.open))
	for _, c := range l.open {
		go func() { asked <- c.Ask(await.Within(l.t, await.AnswerTime)) }()
	}
	for _, c := range l.open {
		wait(l.t, exits.At(l.B.Eth0), c.Questions())
		exits.Want(c.String()+", by the weak model", c.Questions(), l.B.Eth0, l.B.Eth0.Peer().MAC)
	}
	reload(l.t, d, config, strongHost(l.S1))
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
		exit{[]*topology.Interface{l.B.Eth0, l.B.Eth1}, l.B.Eth1, l.gateway}.wantQuestions(l.t, c)
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
