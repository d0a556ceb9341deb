// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"context"
	"net"
	"net/netip"
	"testing"

	"replypath/test/await"
	"replypath/test/host"
	"replypath/test/product"
	"replypath/test/topology"
	"replypath/test/traffic"
	"replypath/test/wire"
)

// TestStrongHostSizes has B originate from the address of an eth1 that takes less than eth0. TCP tells A what fits, B
// learns the size of whatever is too large and sends it again in what fits, and fragments stay together.
func TestStrongHostSizes(t *testing.T) {
	s := newBeginner(t, topology.StrictSource)
	await.Must(t, s.B.Eth1.SetMTU(narrowMTU))
	await.Must(t, s.B.Eth1.Peer().SetMTU(narrowMTU))
	// eth0 leaves segmentation to the device, eth1 does not: so segments are seen as they are cut.
	await.Must(t, s.B.Eth1.SetOffloads(topology.WireExact))
	for _, f := range s.Families() {
		wantBegunLost(t, s, fromEth1(t, s, traffic.TCP, f))
		for _, kind := range datagramKinds {
			c := fromEth1(t, s, kind, f)
			loseLargeOf(t, s.B, c, answersOf(reversed(c)))
		}
	}
	p, _ := product.StartOn(t, s.B.Host, "--config", product.WriteConfig(t, strongHost(s)))
	awaitResolved(t, p)
	for _, single := range []bool{false, true} {
		name := "packets of segments"
		if single {
			name = "segment by segment"
			host.Shell(t, s.B.Host, "ip link set eth0 gso_max_segs 1")
		}
		forgetSizes(t, s.B.Host)
		for _, f := range s.Families() {
			t.Run(name+"/"+f.String(), func(t *testing.T) { transferFromEth1(t, s, p.In(t), f, single) })
		}
	}
	for _, f := range s.Families() {
		forgetSizes(t, s.B.Host)
		t.Run("fragments/"+f.String(), func(t *testing.T) { fragmentsFromEth1(t, s, f) })
	}
}

// routedForSize counts what was too large for eth1.
func routedForSize(p *product.Product) float64 {
	return p.Metrics().Sum("replypath_originated_routed_packets_total", "reason=mtu", "from_interface=eth0", "to_interface=eth1")
}

// reversed is a conversation whose answers are the questions of another.
func reversed(c *traffic.Conversation) *traffic.Conversation {
	if c.Kind == traffic.Ping { // its identifier is the peer's
		return &traffic.Conversation{Kind: c.Kind, Peer: netip.AddrPortFrom(c.Self.Addr(), c.Peer.Port()), Self: netip.AddrPortFrom(c.Peer.Addr(), 0)}
	}
	return &traffic.Conversation{Kind: c.Kind, Peer: c.Self, Self: c.Peer}
}

// transferFromEth1 has a megabyte cross in either direction by a connection that B opens. Of the first packet that is
// too large, or whose segments are, B learns the size; what was lost until then leaves again by eth1.
func transferFromEth1(t *testing.T, s *topology.S1, p *product.Product, f topology.Family, single bool) {
	l := traffic.ServeTransfers(t, s.A.Host, s.A.Eth1.Address(f))
	wires, atA, atB := wire.Tap(t, s.B), wire.Capture(t, s.A.Eth1), wire.Capture(t, s.B.Eth0)
	before := routedForSize(p)
	conn := await.Must1[net.Conn](t)(s.B.Dial(await.Within(t, await.AnswerTime), "tcp", l.Addr().String(),
		topology.FromAddress(netip.AddrPortFrom(s.B.Eth1.Address(f), 0))))
	defer conn.Close()
	traffic.TransferBothWays(t, conn, transferSize/10)
	eth0, eth1 := wires.Left(topology.All(topology.TCP, topology.ToPort(uint16(l.Addr().(*net.TCPAddr).Port))))
	wantFitting(t, eth1)
	routed := int(routedForSize(p) - before)
	told, largest := wantSentAgain(t, atB, eth0, eth1)
	t.Logf("B was told %d times what fits, of %d bytes at most; %d segments were too large, and %d left by eth1",
		told, largest, routed, len(eth1))
	if len(eth0) > max(routed-told, 0) || single == (largest > 1500) {
		t.Errorf("B was told of %d bytes at most; by eth0 left %s", largest, wire.Describe(eth0))
	}
	if n := atA.Count(tooBig); n > 0 {
		t.Errorf("A had to be told %d times what fits: the handshake did not say it", n)
	}
}

// fragmentsFromEth1 has B send large datagrams. Of the first a fragment is too large; the kernel cuts all others so
// that they fit.
func fragmentsFromEth1(t *testing.T, s *topology.S1, f topology.Family) {
	learns := fromEth1(t, s, traffic.Ping, f)
	await.Eventually(t, "the kernel has learned the size", func() error {
		ctx, cancel := context.WithTimeout(t.Context(), 4*await.SilenceTime)
		defer cancel()
		return learns.AskFor(ctx, largeDatagram)
	})
	for _, kind := range datagramKinds {
		c, wires := fromEth1(t, s, kind, f), wire.Tap(t, s.B)
		for range 3 {
			await.Must(t, c.AskFor(await.Within(t, await.AnswerTime), largeDatagram))
		}
		frames := wires.WantEth1(c.String(), answersOf(reversed(c)))
		if len(frames) < 3*largeFragments {
			t.Errorf("%s: few fragments: %s", c, wire.Describe(frames))
		}
		wantFitting(t, frames)
	}
}
