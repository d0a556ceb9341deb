// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"replypath/bpf"
	"replypath/loader/datapath"
	"replypath/loader/pins"
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

// TestStrongHostAnswered has connections that B opened from eth1's address stand in the established table once they are
// answered. They keep to eth1 as without that, whatever changes, and each of their frames is counted once.
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
		if entry := l.entry(c); entry != nil { // no answer is so late that it would enter them
			t.Errorf("%s stands in the established table at once: %+v", c, entry)
		}
	}
	l.wantCounted()
	l.goOn()
	for _, c := range l.open {
		wantExplained(t, l.p, c)
	}
	d.Kill()
	before := l.awaitEntries(func(int, *bpf.DatapathFlow) bool { return true })
	l.awaitEntries(func(n int, entry *bpf.DatapathFlow) bool { return entry.Seen != before[n].Seen }) // anew
	l.wantByEth1()
	l.wantCounted()
	d = l.p.Start("--config", config)
	l.goOn()
	l.changeGateway()
	l.beWeak(d, config)
	l.goOn()
	l.end()
}

// goOn goes on until the connections are entered, and wants nobody to see a difference.
func (l *lasting) goOn() {
	l.t.Helper()
	l.awaitEntries(func(int, *bpf.DatapathFlow) bool { return true })
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
	defer product.Quiet(l.t)() // an entry that nothing is sent by is over after two seconds
	l.goOn()
	l.awaitEntries(func(int, *bpf.DatapathFlow) bool { return true }) // which questions of other sizes may end
	reload(l.t, d, config, strings.Replace(strongHost(l.S1), "strong", "weak", 1))
	exits, asked := wire.TapAll(l.t, l.B.Eth0, l.B.Eth1), make(chan error, len(l.open))
	for _, c := range l.open {
		if l.entry(c) == nil {
			l.t.Errorf("%s: not entered when the model had changed", c)
		}
	}
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
		if entry := l.entry(c); entry != nil {
			l.t.Errorf("%s is closed, and entered: %+v", c, entry)
		}
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

// entry is what the established table has of a connection, nil for nothing.
func (l *lasting) entry(c *traffic.Conversation) *bpf.DatapathFlow {
	l.t.Helper()
	maps := await.Must1[*bpf.DatapathMaps](l.t)(datapath.OpenMaps(l.p.PinDir))
	defer maps.Close()
	var journal *pins.Journal
	await.Must(l.t, l.B.Do(func() (err error) {
		journal, err = pins.ReadJournal(l.p.PinDir)
		return err
	}))
	digest := bpf.Seeds(journal.Seeds).Digest(bpf.DatapathTuple{
		Peer: c.Self.Addr().As16(), PeerPort: datapath.Port(c.Self.Port()),
		Self: c.Peer.Addr().As16(), SelfPort: datapath.Port(c.Peer.Port()), Protocol: unix.IPPROTO_TCP,
	})
	return await.Must1[*bpf.DatapathFlow](l.t)(datapath.FindAnswered(maps.Established, digest))
}

// awaitEntries asks until the connections are entered as wanted, the entries have had segments moved, and nothing is
// on its way.
func (l *lasting) awaitEntries(wanted func(n int, entry *bpf.DatapathFlow) bool) (entries []*bpf.DatapathFlow) {
	l.t.Helper()
	for n, c := range l.open {
		await.Eventually(l.t, c.String()+" is entered", func() error {
			traffic.Ask(l.t, c)
			l.awaitAcknowledged(c)
			entry := l.entry(c)
			if entry == nil || entry.Corrected == 0 || !wanted(n, entry) {
				return fmt.Errorf("entry %+v", entry)
			}
			entries = append(entries, entry)
			return nil
		})
	}
	return entries
}

// awaitAcknowledged returns when B has acknowledged the last answer: from then on nothing is sent, nor sent again.
func (l *lasting) awaitAcknowledged(c *traffic.Conversation) {
	l.t.Helper()
	await.Eventually(l.t, c.String()+" is acknowledged", func() error {
		frames := l.wires.Eth1.Frames(topology.OneOf(c.Questions(), c.Answers()))
		if last := frames[len(frames)-1]; last.Direction != topology.Received {
			return fmt.Errorf("the last frame is %s", last)
		}
		return nil
	})
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
		moved := make(map[uint16]uint64)
		for _, f := range l.p.Flows("--originated", "--protocol", "tcp") {
			moved[f.SelfPort] = f.CorrectedPackets
		}
		for _, c := range l.open {
			if _, eth1 := l.wires.Left(c.Questions()); moved[c.Peer.Port()] != uint64(len(eth1)) {
				err = errors.Join(err, fmt.Errorf("%s: %d are listed, %d frames left", c, moved[c.Peer.Port()], len(eth1)))
			}
		}
		return err
	})
	if list := l.p.Flows("--protocol", "tcp"); len(list) > 0 {
		l.t.Errorf("flows: %v", list)
	}
}
