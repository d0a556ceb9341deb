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
	"replypath/test/product"
	"replypath/test/topology"
	"replypath/test/traffic"
	"replypath/test/wire"
)

// passing are addresses of eth1 that come and go, on its network and on another.
var passing = map[topology.Family][]netip.Prefix{
	topology.IPv4: {netip.MustParsePrefix("10.4.0.20/24"), netip.MustParsePrefix("10.44.0.1/24")},
	topology.IPv6: {netip.MustParsePrefix("2001:db8:4::20/64"), netip.MustParsePrefix("2001:db8:44::1/64")},
}

// openFromEth1 are conversations that B has begun from eth1's address, one of each kind.
func openFromEth1(t *testing.T, s *topology.S1, families ...topology.Family) (all []*traffic.Conversation) {
	t.Helper()
	for _, f := range families {
		for _, kind := range traffic.Kinds {
			c := fromEth1(t, s, kind, f)
			traffic.Ask(t, c)
			all = append(all, c)
		}
	}
	return all
}

// TestStrongHostAddressBack has B talk from eth1's address while others of eth1's come and go, and then that one
// itself. Without it B begins nothing from there: IPv4 sends nothing, by IPv6 what is open goes as routed, uncounted.
// An address that goes to the other interface takes its way with it.
func TestStrongHostAddressBack(t *testing.T) {
	s := newBeginner(t, topology.StrictSource)
	sampledBegun(t, s, "without replypath", func(t *testing.T, c *traffic.Conversation) { wantBegunLost(t, s, c) })
	p := product.On(t, s.B.Host)
	p.Start("--config", product.WriteConfig(t, strongHost(s)))
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
