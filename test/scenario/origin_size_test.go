// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

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
	wires, atA, atB := wire.Tap(t, s.B), wire.Capture(t, s.A.Eth1), wire.Capture(t, s.B.Eth1)
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

// passing are addresses of eth1 that come and go, on its network and on another.
var passing = map[topology.Family][]netip.Prefix{
	topology.IPv4: {netip.MustParsePrefix("10.4.0.20/24"), netip.MustParsePrefix("10.44.0.1/24")},
	topology.IPv6: {netip.MustParsePrefix("2001:db8:4::20/64"), netip.MustParsePrefix("2001:db8:44::1/64")},
}

// openFromEth1 are conversations that B has begun from eth1's address, one of each kind.
func openFromEth1(t *testing.T, s *topology.S1, families ...topology.Family) []*traffic.Conversation {
	t.Helper()
	all := conversations(t, s.B.Eth1, s.A.Eth1, families...)
	for _, c := range all {
		traffic.Ask(t, c)
	}
	return all
}

// TestStrongHostAddressBack has B talk from eth1's address while others of eth1's come and go, and then that one
// itself. Without it B begins nothing from there: IPv4 sends nothing, by IPv6 what is open goes as routed, uncounted.
// An address that goes to the other interface takes its way with it.
func TestStrongHostAddressBack(t *testing.T) {
	s := newBeginner(t, topology.StrictSource)
	sampledBegun(t, s, "without replypath", func(t *testing.T, c *traffic.Conversation) { wantBegunLost(t, s, c) })
	p, _ := product.StartOn(t, s.B.Host, "--config", product.WriteConfig(t, strongHost(s)))
	awaitResolved(t, p)
	t.Run("others come and go", func(t *testing.T) { othersComeAndGo(t, s, p.In(t)) })
	for _, f := range s.Families() {
		t.Run("gone/"+f.String(), func(t *testing.T) { goneAndBack(t, s, p.In(t), f) })
	}
	sampledBegun(t, s, "back", func(t *testing.T, c *traffic.Conversation) {
		before := p.Metrics() // what was asked until the gateway had answered again may have gone as routed
		wantBegun(t, s, c)
		wantOriginatedSince(t, before, p, c, "moved")
	})
	t.Run("moves", func(t *testing.T) { addressMoves(t, s) })
}

// othersComeAndGo wants what is open to keep its way meanwhile.
func othersComeAndGo(t *testing.T, s *topology.S1, p *product.Product) {
	wires, open := wire.Tap(t, s.B), openFromEth1(t, s, s.Families()...)
	var talks []*traffic.Talk
	for _, c := range open {
		talks = append(talks, c.KeepThrough(t))
	}
	for _, f := range s.Families() {
		for _, other := range passing[f] {
			await.Must(t, s.B.Eth1.AddAddress(other))
			p.AwaitOwn(other.Addr(), true, time.Now())
			await.Must(t, s.B.Eth1.RemoveAddress(other))
			p.AwaitOwn(other.Addr(), false, time.Now())
		}
	}
	answers := 0
	for n, talk := range talks {
		answers += talk.Stop()
		wires.WantEth1(open[n].String(), open[n].Questions())
	}
	t.Logf("%d answers to %d conversations while %d addresses came and went", answers, len(open), 2*len(passing[topology.IPv4]))
}

// goneAndBack removes eth1's own address, and puts it back.
func goneAndBack(t *testing.T, s *topology.S1, p *product.Product, f topology.Family) {
	all := s.B.Eth1.Addresses
	own := all[slices.IndexFunc(all, func(a netip.Prefix) bool { return topology.FamilyOf(a.Addr()) == f })]
	open := openFromEth1(t, s, f)
	await.Must(t, s.B.Eth1.RemoveAddress(own))
	gone := p.AwaitOwn(own.Addr(), false, time.Now())
	wantGone(t, s, p, open)
	err := fromEth1(t, s, traffic.UDP, f).Connect(await.Within(t, await.AnswerTime))
	if !errors.Is(err, unix.EADDRNOTAVAIL) {
		t.Errorf("B begins from an address that it does not have: %v", err)
	}
	await.Must(t, s.B.Eth1.AddAddress(own))
	back := p.AwaitOwn(own.Addr(), true, time.Now())
	awaitAnswer(t, fromEth1(t, s, traffic.Ping, f)) // the kernel has forgotten the gateway with the last address of eth1
	t.Logf("%s: known as gone after %s, as back after %s", own, gone, back)
	wires := wire.Tap(t, s.B)
	for _, c := range open {
		traffic.Ask(t, c)
		wires.WantEth1(c.String()+", which is older", c.Questions())
	}
}

// addressMoves has an address go from one interface to the other, and back.
func addressMoves(t *testing.T, s *topology.S1) {
	address := netip.MustParsePrefix("10.4.0.7/32")
	for _, at := range []*topology.Interface{s.B.Eth1, s.B.Eth0, s.B.Eth1} {
		await.Must(t, at.AddAddress(address))
		to := netip.AddrPortFrom(s.A.Eth1.Address(topology.IPv4), traffic.EchoPort)
		from := topology.FromAddress(netip.AddrPortFrom(address.Addr(), 0))
		conn := await.Must1[net.Conn](t)(s.B.Dial(t.Context(), "udp", to.String(), from))
		await.Eventually(t, "the way is that of "+at.Name, func() error {
			exits := wire.TapAll(t, at)
			await.Must1[int](t)(conn.Write([]byte("question")))
			ctx, cancel := context.WithTimeout(t.Context(), 4*await.SilenceTime)
			defer cancel()
			_, err := exits.At(at).Wait(ctx, topology.All(topology.From(address.Addr()), topology.Going(topology.Received)))
			return err
		})
		await.Must(t, conn.Close())
		await.Must(t, at.RemoveAddress(address))
	}
}

// wantGone wants what is open to be lost, as the kernel alone would have it, and not to count as originated.
func wantGone(t *testing.T, s *topology.S1, p *product.Product, open []*traffic.Conversation) {
	t.Helper()
	f := topology.FamilyOf(open[0].Self.Addr())
	originated := func() float64 { return p.Metrics().Sum("replypath_originated_packets_total", "family="+f.String()) }
	if f == topology.IPv6 {
		await.Eventually(t, open[0].String()+" is of no address of the host", func() error {
			before := originated()
			err := askByEth0(t, s, open[0])
			if more := originated() - before; err == nil && more > 0 {
				err = fmt.Errorf("%v packets count as originated", more)
			}
			return err
		})
	}
	for _, c := range open {
		before, wires := originated(), wire.Tap(t, s.B)
		if f == topology.IPv6 {
			if err := wire.AskUntilLost(t, c, wires.Eth0, c.Questions()); err == nil {
				t.Errorf("%s was answered", c)
			}
			wires.WantEth0(fmt.Sprintf("%s without its address", c), c.Questions())
		} else {
			err := c.Ask(await.Within(t, 4*await.SilenceTime))
			if eth0, eth1 := wires.Left(c.Questions()); err == nil || len(eth0)+len(eth1) > 0 {
				t.Errorf("%s: %d and %d frames left without its address: %v", c, len(eth0), len(eth1), err)
			}
		}
		if more := originated() - before; more > 0 {
			t.Errorf("%s: %v packets count as originated without its address", c, more)
		}
	}
}

// askByEth0 asks, and returns an error if nothing leaves by eth0.
func askByEth0(t *testing.T, s *topology.S1, c *traffic.Conversation) error {
	t.Helper()
	wires := wire.Tap(t, s.B)
	defer wires.Stop()
	err := c.Ask(await.Within(t, await.SilenceTime))
	if eth0, _ := wires.Left(c.Questions()); len(eth0) == 0 {
		return fmt.Errorf("%s: no frame left by eth0, and the question ended with %w", c, err)
	}
	return nil
}
