// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"context"
	"testing"
	"time"

	"replypath/test/await"
	"replypath/test/product"
	"replypath/test/topology"
	"replypath/test/traffic"
	"replypath/test/wire"
)

// What comes in fragments: so many bytes, in so many of them.
const (
	largeDatagram  = 8000
	largeFragments = 6
)

// datagramKinds are what is fragmented where it is large; TCP never is.
var datagramKinds = []traffic.Kind{traffic.UDP, traffic.Ping}

// answersOf matches all that a conversation's server sends to its client without a connection: later
// fragments say no more of what they belong to. SYN-ACKs that got lost are sent again for a minute.
func answersOf(c *traffic.Conversation) topology.Filter {
	return topology.All(topology.From(c.Self.Addr()), topology.To(c.Peer.Addr()), topology.Not(topology.TCP))
}

// loseLarge asks with a large datagram, and wants the answer to leave by eth0 and not to arrive. It returns the
// fragments.
func loseLarge(t *testing.T, n *topology.TwoNIC, c *traffic.Conversation) []*topology.Frame {
	t.Helper()
	return loseLargeOf(t, n.Server, c, answersOf(c))
}

// loseLargeOf is that for what leaves a server.
func loseLargeOf(t *testing.T, server *topology.Server, c *traffic.Conversation, left topology.Filter) []*topology.Frame {
	t.Helper()
	wires := wire.Tap(t, server)
	ctx, cancel := context.WithCancel(await.Within(t, await.AnswerTime))
	defer cancel()
	asked := make(chan error, 1)
	go func() { asked <- c.AskFor(ctx, largeDatagram) }()
	if _, err := wires.Eth0.WaitCount(ctx, largeFragments, left); err != nil {
		t.Errorf("%s: %v", c, err)
	}
	defer time.AfterFunc(await.SilenceTime, cancel).Stop()
	if err := <-asked; err == nil {
		t.Errorf("%s was answered", c)
	}
	return wires.WantEth0(c.String(), left)
}

// TestFragments asks with datagrams that come in fragments, and whose answers leave
// in fragments: all by the NIC that was asked, byte by byte as they were; without
// replypath, and in mode observe, by the routed one. Each of them is counted.
func TestFragments(t *testing.T) {
	n := traffic.NewTwoNIC(t, topology.TwoNICOptions{Policy: topology.StrictSource})
	each := func(run func(*traffic.Conversation)) {
		for _, f := range traffic.Families {
			for _, kind := range datagramKinds {
				run(traffic.NewConversation(t, kind, n.ClientEth0, n.Server.Eth1.Address(f)))
			}
		}
	}
	each(func(c *traffic.Conversation) { loseLarge(t, n, c) })

	p := product.On(t, n.Server.Host)
	p.Start("--observe")
	each(func(c *traffic.Conversation) {
		before := countedBy(p)
		wantCounted(t, p, before, loseLarge(t, n, c), false)
	})

	p.Expect(0, "mode", "enforce")
	each(func(c *traffic.Conversation) {
		before, ofProtocol := countedBy(p), correctedOf(p, c)
		wires := wire.Tap(t, n.Server)
		for range 3 {
			await.Must(t, c.AskFor(await.Within(t, await.AnswerTime), largeDatagram))
		}
		frames := wires.WantEth1(c.String(), answersOf(c))
		if len(frames) != 3*largeFragments {
			t.Errorf("%s: %s", c, wire.Describe(frames))
		}
		wantCounted(t, p, before, frames, true)
		if counted := correctedOf(p, c) - ofProtocol; int(counted) != len(frames) {
			t.Errorf("%s: %v fragments of %d were counted for its protocol", c, counted, len(frames))
		}
	})
	wantNoMoves(t, p)
}

// correctedOf counts the packets of a conversation's protocol and family that were moved.
func correctedOf(p *product.Product, c *traffic.Conversation) float64 {
	family := topology.FamilyOf(c.Self.Addr()).String()
	return p.Metrics().Sum("replypath_corrected_packets_total", "family="+family, "protocol="+c.Protocol())
}

// TestFragmentsOfTheHost has the server ask with datagrams that leave in fragments, from either of its addresses:
// they go where the routing table says, also when their answers come in by eth1.
func TestFragmentsOfTheHost(t *testing.T) {
	n := traffic.NewTwoNIC(t, topology.TwoNICOptions{Policy: topology.AnySource})
	p := product.On(t, n.Server.Host)
	p.Start("--config", product.WriteConfig(t, "related: false\n"))
	p.WaitGrace()
	for _, f := range traffic.Families {
		traffic.Serve(t, n.Client, n.ClientEth0.Address(f))
		for _, from := range []*topology.Interface{n.Server.Eth0, n.Server.Eth1} {
			for _, kind := range datagramKinds {
				c := traffic.NewConversation(t, kind, from, n.ClientEth0.Address(f))
				wires := wire.Tap(t, n.Server)
				for range 3 {
					await.Must(t, c.AskFor(await.Within(t, await.AnswerTime), largeDatagram))
				}
				questions := topology.All(topology.From(c.Peer.Addr()), topology.To(c.Self.Addr()))
				if frames := wires.WantEth0(c.String(), questions); len(frames) != 3*largeFragments {
					t.Errorf("%s: %s", c, wire.Describe(frames))
				}
			}
		}
	}
	if got := countedBy(p); got != (counted{}) {
		t.Errorf("counted %+v", got)
	}
}
