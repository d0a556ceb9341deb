// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"replypath/test/harness"
	"replypath/test/topology"
)

const (
	poolStreams   = 32
	poolSize      = 4 << 20 // bytes of each
	poolAddresses = 4       // of each uplink
	poolClients   = 8       // behind B: the kernel chooses an address of the pool by that of the client
)

// poolNetwork is S1 where B forwards for hosts behind it: for some under pools of addresses of both uplinks, for others
// under their own address, to which plain routes lead.
type poolNetwork struct {
	*topology.S1
	inside *topology.Host
}

// nth is the address that comes so many after another.
func nth(a netip.Addr, n int) netip.Addr {
	for range n {
		a = a.Next()
	}
	return a
}

// The addresses behind B: of those whose packets are translated, and of those whose are not and go by eth0, and by eth1.
var (
	poolInside = inside("10.9.9.2/24", "2001:db8:99::2/64")
	plainEth0  = inside("10.9.8.2/24", "2001:db8:98::2/64")
	plainEth1  = inside("10.9.7.2/24", "2001:db8:97::2/64")
)

func inside(ipv4, ipv6 string) map[topology.Family]netip.Prefix {
	return map[topology.Family]netip.Prefix{
		topology.IPv4: netip.MustParsePrefix(ipv4), topology.IPv6: netip.MustParsePrefix(ipv6),
	}
}

func newPool(t *testing.T) *poolNetwork {
	t.Helper()
	s := newBeginner(t, topology.StrictSource)
	n := &poolNetwork{S1: s, inside: hostBehind(t, s).Host}
	for _, f := range s.Families() {
		for _, uplink := range []*topology.Interface{s.B.Eth0, s.B.Eth1} {
			n.addPool(t, uplink, f)
		}
		eth0 := harness.Must1[*topology.Interface](t)(n.inside.Interface("eth0"))
		near := harness.Must1[*topology.Interface](t)(s.B.Interface("inside"))
		bits := poolInside[f].Addr().BitLen()
		for c := range poolClients - 1 {
			harness.Must(t, eth0.AddAddress(netip.PrefixFrom(nth(poolInside[f].Addr(), 1+c), bits)))
		}
		for _, plain := range []netip.Prefix{plainEth0[f], plainEth1[f]} {
			harness.Must(t, eth0.AddAddress(netip.PrefixFrom(plain.Addr(), bits)))
			harness.Must(t, near.AddAddress(netip.PrefixFrom(plain.Addr().Prev(), plain.Bits())))
		}
		harness.Must(t, eth0.WaitReady(harness.Within(t, harness.AnswerTime)))
		n.addPlainRoutes(t, f)
		n.translate(t, f)
	}
	return n
}

// addPool gives an uplink the rest of its pool.
func (n *poolNetwork) addPool(t *testing.T, uplink *topology.Interface, f topology.Family) {
	t.Helper()
	bits := map[topology.Family]int{topology.IPv4: 24, topology.IPv6: 64}[f]
	for a := range poolAddresses - 1 {
		harness.Must(t, uplink.AddAddress(netip.PrefixFrom(nth(uplink.Address(f), 1+a), bits)))
	}
}

// addPlainRoutes has what is not translated find its way there and back, by both uplinks.
func (n *poolNetwork) addPlainRoutes(t *testing.T, f topology.Family) {
	t.Helper()
	eth0, eth1 := plainEth0[f].Masked(), plainEth1[f].Masked()
	harness.Must(t, n.Production.AddRoute(topology.Route{Destination: eth0, Via: n.B.Eth0.Address(f)}))
	harness.Must(t, n.Replication.AddRoute(topology.Route{Destination: eth1, Via: n.B.Eth1.Address(f)}))
	harness.Must(t, n.A.AddRoute(topology.Route{Destination: eth1, Via: n.A.Eth1.Gateway(f)}))
	harness.Must(t, n.B.AddRoute(topology.Route{Via: n.B.Eth1.Gateway(f), Table: 101}))
	harness.Must(t, n.B.AddRule(eth1, 101))
}

// translate has B choose an address of the uplink that A's address is behind.
func (n *poolNetwork) translate(t *testing.T, f topology.Family) {
	t.Helper()
	ip := map[topology.Family]string{topology.IPv4: "ip", topology.IPv6: "ip6"}[f]
	rule := func(b, a *topology.Interface) string {
		first := b.Address(f)
		return fmt.Sprintf("%s saddr %s %s daddr %s snat to %s-%s",
			ip, poolInside[f].Masked(), ip, a.Address(f), first, nth(first, poolAddresses-1))
	}
	loadRules(t, n.B.Host, fmt.Sprintf(`table %s masks {
	chain outward { type nat hook postrouting priority srcnat; %s; %s; }
}`, ip, rule(n.B.Eth0, n.A.Eth0), rule(n.B.Eth1, n.A.Eth1)))
}

// isOf tells whether an address is of an uplink's pool.
func isOf(uplink *topology.Interface, a netip.Addr) bool {
	first := uplink.Address(topology.FamilyOf(a))
	return first.Compare(a) <= 0 && a.Compare(nth(first, poolAddresses-1)) <= 0
}

// TestStrongHostPool has B forward bulk data under pools of addresses of both uplinks.
// What got one of eth1's is lost without replypath, also beside rules for the addresses, as routing comes before the
// translation. The strong host model has every stream arrive, each by the uplink of its address, as fast as by plain routes.
func TestStrongHostPool(t *testing.T) {
	n := newPool(t)
	half := func(name string) {
		for _, f := range n.Families() {
			streams, wires := n.open(t, f, harness.SilenceTime)
			wires.Stop()
			if len(streams) != poolStreams/2 {
				t.Errorf("%s, %s: %d of %d streams are connected, not half of them", name, f, len(streams), poolStreams)
			}
		}
	}
	half("without replypath")
	for _, f := range n.Families() {
		for a := range poolAddresses {
			of := nth(n.B.Eth1.Address(f), a)
			harness.Must(t, n.B.AddRule(netip.PrefixFrom(of, of.BitLen()), 101))
		}
	}
	half("by rules")
	harness.On(t, n.B.Host).Start("--config", harness.WriteConfig(t, strongHost(n.S1)))
	for _, f := range n.Families() {
		streams, wires := n.open(t, f, harness.AnswerTime)
		if len(streams) != poolStreams {
			t.Fatalf("strong, %s: %d of %d streams are connected", f, len(streams), poolStreams)
		}
		sendBulk(t, streams, poolSize)
		wires.Stop() // it takes time from what is compared
		n.wantByUplink(t, f, wires)
		n.compare(t, f, streams)
	}
}

// open connects streams from behind B to both addresses of A, those to eth1's as far as they are answered in time, and
// returns what is on the wires from then on.
func (n *poolNetwork) open(t *testing.T, f topology.Family, patience time.Duration) ([]net.Conn, *harness.Wires) {
	t.Helper()
	wires := harness.Tap(t, n.B)
	client := func(number int) netip.Addr { return nth(poolInside[f].Addr(), number/2%poolClients) }
	return n.openFrom(t, f, patience, client), wires
}

// openPlain is open for what is not translated.
func (n *poolNetwork) openPlain(t *testing.T, f topology.Family) []net.Conn {
	t.Helper()
	plain := []netip.Addr{plainEth0[f].Addr(), plainEth1[f].Addr()}
	return n.openFrom(t, f, harness.AnswerTime, func(number int) netip.Addr { return plain[number%2] })
}

func (n *poolNetwork) openFrom(
	t *testing.T, f topology.Family, patience time.Duration, from func(number int) netip.Addr,
) (streams []net.Conn) {
	t.Helper()
	at := []string{takeBulk(t, n.A.Host, n.A.Eth0.Address(f), poolSize), takeBulk(t, n.A.Host, n.A.Eth1.Address(f), poolSize)}
	for number := range poolStreams {
		within := harness.AnswerTime
		if number%2 == 1 {
			within = patience
		}
		ctx, cancel := context.WithTimeout(t.Context(), within)
		conn, err := n.inside.Dial(ctx, "tcp", at[number%2], topology.FromAddress(netip.AddrPortFrom(from(number), 0)))
		cancel()
		if err == nil {
			t.Cleanup(func() { conn.Close() })
			streams = append(streams, conn)
		}
	}
	return streams
}

// wantByUplink wants what goes to either address of A to have several addresses of a pool, and to leave by its uplink.
func (n *poolNetwork) wantByUplink(t *testing.T, f topology.Family, wires *harness.Wires) {
	t.Helper()
	for _, u := range []struct {
		uplink, to *topology.Interface
		frames     []*topology.Frame
	}{
		{n.B.Eth0, n.A.Eth0, wires.WantEth0(f.String()+", to A's eth0", topology.To(n.A.Eth0.Address(f)))},
		{n.B.Eth1, n.A.Eth1, wires.WantEth1(f.String()+", to A's eth1", topology.To(n.A.Eth1.Address(f)))},
	} {
		used := make(map[netip.Addr]bool)
		for _, frame := range u.frames {
			used[frame.Source] = true
			if !isOf(u.uplink, frame.Source) {
				t.Errorf("%s: %s is of no address of the pool", u.uplink.Name, frame)
			}
		}
		if len(used) < 2 {
			t.Errorf("%s, %s: %d addresses of the pool are used", u.uplink.Name, f, len(used))
		}
		t.Logf("%s: %d streams by %s under %d addresses", f, poolStreams/2, u.uplink.Name, len(used))
	}
}

// poolTolerance bounds how many times as long the pool takes as the plain routes, in the median. It was 0.8
// to 1.2, with a noise of up to 1.5.
const poolTolerance = 2

// compare sends bulk data in turns by both, translated and not.
func (n *poolNetwork) compare(t *testing.T, f topology.Family, translated []net.Conn) {
	t.Helper()
	plain := n.openPlain(t, f)
	if len(plain) != poolStreams {
		t.Fatalf("plain, %s: %d of %d streams are connected", f, len(plain), poolStreams)
	}
	send := func(streams []net.Conn) time.Duration { return sendBulk(t, streams, poolSize) }
	send(plain) // the first of each stream is slow
	times := newAlternation(func() time.Duration { return send(plain) })
	for range rounds {
		times.with = append(times.with, send(translated))
		times.without = append(times.without, send(plain))
	}
	ratio, spread := times.ratio()
	t.Logf("%s: %d MB by two uplinks take %.2f times as long as by plain routes without SNAT (%.2f to %.2f), noise %.2f",
		f, poolStreams*poolSize>>20, ratio, spread[0], spread[1], times.noise())
	if ratio > max(poolTolerance, times.noise()) {
		t.Errorf("%s: the pool takes %.2f times as long", f, ratio)
	}
}
