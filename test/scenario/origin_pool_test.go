// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"replypath/test/await"
	"replypath/test/host"
	"replypath/test/product"
	"replypath/test/topology"
	"replypath/test/wire"
)

const (
	poolStreams   = 32
	poolSize      = 4 << 20 // bytes of each
	poolAddresses = 4       // of each uplink
	poolClients   = 8       // behind B: the kernel chooses an address of the pool by that of the client
)

// poolNetwork is S1 where B forwards for a host behind it under pools of addresses of both uplinks.
type poolNetwork struct {
	*topology.S1
	inside *topology.Interface
}

// nth is the address that comes so many after another.
func nth(a netip.Addr, n int) netip.Addr {
	for range n {
		a = a.Next()
	}
	return a
}

func newPool(t *testing.T) *poolNetwork {
	t.Helper()
	s := newBeginner(t, topology.StrictSource)
	eth0 := hostBehind(t, s)
	n := &poolNetwork{S1: s, inside: eth0}
	for _, f := range s.Families() {
		n.addPool(t, s.B.Eth0, f)
		n.addPool(t, s.B.Eth1, f)
		for c := range poolClients - 1 {
			address := nth(eth0.Address(f), 1+c)
			await.Must(t, eth0.AddAddress(netip.PrefixFrom(address, address.BitLen())))
		}
		ip := map[topology.Family]string{topology.IPv4: "ip", topology.IPv6: "ip6"}[f]
		toPool := func(of, to *topology.Interface) string {
			return fmt.Sprintf("%s daddr %s snat to %s-%s", ip, to.Address(f), of.Address(f), nth(of.Address(f), poolAddresses-1))
		}
		host.Nft(t, s.B.Host, fmt.Sprintf(`table %s masks {
	chain outward { type nat hook postrouting priority srcnat; %s; %s; }
}`, ip, toPool(s.B.Eth0, s.A.Eth0), toPool(s.B.Eth1, s.A.Eth1)))
	}
	await.Must(t, eth0.WaitReady(await.Within(t, await.AnswerTime)))
	return n
}

// addPool gives an uplink the rest of its pool.
func (n *poolNetwork) addPool(t *testing.T, uplink *topology.Interface, f topology.Family) {
	t.Helper()
	bits := map[topology.Family]int{topology.IPv4: 24, topology.IPv6: 64}[f]
	for a := range poolAddresses - 1 {
		await.Must(t, uplink.AddAddress(netip.PrefixFrom(nth(uplink.Address(f), 1+a), bits)))
	}
}

// isOf tells whether an address is of an uplink's pool.
func isOf(uplink *topology.Interface, a netip.Addr) bool {
	first := uplink.Address(topology.FamilyOf(a))
	return first.Compare(a) <= 0 && a.Compare(nth(first, poolAddresses-1)) <= 0
}

// TestStrongHostPool has B forward bulk data under pools of addresses of both uplinks. What got one of eth1's is lost
// without replypath, also beside rules for the addresses, as routing comes before the translation. The strong host
// model has every stream arrive, each by the uplink of its address, as fast by that to which it is moved.
func TestStrongHostPool(t *testing.T) {
	n := newPool(t)
	half := func(name string) {
		for _, f := range n.Families() {
			await.Same(t, name+", "+f.String()+": streams that are connected, half of them", poolStreams/2, len(n.open(t, f, await.SilenceTime)))
		}
	}
	half("without replypath")
	for _, f := range n.Families() {
		await.Must(t, n.B.AddRoute(topology.Route{Via: n.B.Eth1.Gateway(f), Table: 101}))
		for a := range poolAddresses {
			of := nth(n.B.Eth1.Address(f), a)
			host.Shell(t, n.B.Host, fmt.Sprintf("ip %s rule add from %s lookup 101", ipFlag(f), of))
		}
	}
	half("by rules")
	p, _ := product.StartOn(t, n.B.Host, "--config", product.WriteConfig(t, strongHost(n.S1)))
	awaitResolved(t, p)
	for _, f := range n.Families() {
		wires := wire.Tap(t, n.B)
		streams := n.open(t, f, await.AnswerTime)
		if len(streams) != poolStreams {
			t.Fatalf("strong, %s: %d of %d streams are connected", f, len(streams), poolStreams)
		}
		sendBulk(t, streams, poolSize/bulkPart)
		wires.Stop() // it takes time from what is compared
		n.wantByUplink(t, f, wires)
		n.compare(t, f, streams)
	}
}

// open connects streams from behind B to A's addresses in turns, those to eth1's as far as they are answered in time.
func (n *poolNetwork) open(t *testing.T, f topology.Family, patience time.Duration) (streams []net.Conn) {
	t.Helper()
	at := []string{takeBulk(t, n.A.Host, n.A.Eth0.Address(f)), takeBulk(t, n.A.Host, n.A.Eth1.Address(f))}
	for number := range poolStreams {
		within := await.AnswerTime
		if number%2 == 1 {
			within = patience
		}
		ctx, cancel := context.WithTimeout(t.Context(), within)
		from := netip.AddrPortFrom(nth(n.inside.Address(f), number/2%poolClients), 0)
		conn, err := n.inside.Host.Dial(ctx, "tcp", at[number%2], topology.FromAddress(from))
		cancel()
		if err == nil {
			t.Cleanup(func() { conn.Close() })
			streams = append(streams, conn)
		}
	}
	return streams
}

// wantByUplink wants what goes to either address of A to have several addresses of a pool, and to leave by its uplink.
func (n *poolNetwork) wantByUplink(t *testing.T, f topology.Family, wires *wire.Wires) {
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

// compare sends bulk data in turns by eth1, to which it is moved, and by eth0.
func (n *poolNetwork) compare(t *testing.T, f topology.Family, streams []net.Conn) {
	t.Helper()
	var by [2][]net.Conn
	for number, conn := range streams {
		by[number%2] = append(by[number%2], conn)
	}
	moved := 0
	a := bulk(f.String()+", moved", func(parts int) cost { return sendBulk(t, by[moved], parts) })
	defer product.Quiet(t)()
	takeTurns(t, []*alternation{a}, a.takeWithout, func() {
		moved = 1
		a.takeWith()
		moved = 0
	})
}
