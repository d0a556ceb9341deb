// SPDX-License-Identifier: Apache-2.0

package flows

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"replypath/bpf"
	"replypath/test/await"
	"replypath/test/host"
	"replypath/test/topology"
)

// TestSortRows: the first of an order comes first, what is not known last, and equal ones stand by their tuples.
func TestSortRows(t *testing.T) {
	peer := func(n byte) bpf.DatapathTuple {
		return bpf.DatapathTuple{Peer: [16]uint8{10: 0xff, 11: 0xff, 12: 10, 15: n}}
	}
	list := []*row{
		{entry: bpf.DatapathFlow{Tuple: peer(10), Corrected: 5, Created: 3}},
		{entry: bpf.DatapathFlow{Tuple: peer(9), Corrected: 9, Created: 1}, more: &more{bytes: new(uint64(7))}},
		{entry: bpf.DatapathFlow{Tuple: peer(8), Corrected: 5, Created: 2}},
		{entry: bpf.DatapathFlow{Tuple: peer(7), Corrected: 1, Created: 1}, more: &more{bytes: new(uint64(8))}},
	}
	for order, want := range map[Order][]byte{"": {7, 8, 9, 10}, ByCorrected: {9, 8, 10, 7}, ByBytes: {7, 9, 8, 10}, ByAge: {10, 8, 7, 9}} {
		sorted, got := slices.Clone(list), []byte(nil)
		sortRows(sorted, order, func(tick uint32) time.Duration { return time.Duration(100 - tick) })
		for _, r := range sorted {
			got = append(got, r.entry.Tuple.Peer[15])
		}
		if !slices.Equal(got, want) {
			t.Errorf("by %q: %v rather than %v", order, got, want)
		}
	}
}

func newS1(t *testing.T) (context.Context, *topology.S1) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	s := await.Must1[*topology.S1](t)(topology.NewS1(ctx, topology.S1Options{}))
	t.Cleanup(func() { await.Must(t, s.Close()) })
	return ctx, s
}

// flowOf is that of a connection to B.
func flowOf(peer, self netip.AddrPort) Flow {
	return Flow{
		Protocol: "tcp", Family: family(self.Addr()), State: StateEstablished, Asymmetric: true, Interface: new("eth1"),
		Peer: peer.Addr().String(), PeerPort: peer.Port(), Self: self.Addr().String(), SelfPort: self.Port(),
	}
}

// TestKernelChoiceByRules: rules may tell packets apart by ports, protocols and marks. Where the mark is not known, and
// matters, neither is the choice.
func TestKernelChoiceByRules(t *testing.T) {
	ctx, s := newS1(t)
	self := s.B.Eth1.Address(topology.IPv4)
	listener := await.Must1[net.Listener](t)(s.B.Listen(ctx, "tcp", netip.AddrPortFrom(self, 5432).String()))
	defer listener.Close()
	add := func(rule string) {
		t.Helper()
		host.Shell(t, s.B.Host, "ip rule add "+rule+" lookup 100\n")
	}
	host.Shell(t, s.B.Host, fmt.Sprintf("ip route add default via %s table 100\n", s.B.Eth1.Gateway(topology.IPv4)))
	add("from " + self.String() + " ipproto tcp sport 5432")
	peer := netip.AddrPortFrom(s.A.Eth1.Address(topology.IPv4), 50000)
	by := func(protocol string, port uint16) string {
		t.Helper()
		f := flowOf(peer, netip.AddrPortFrom(self, port))
		f.Protocol = protocol
		await.Must(t, s.B.Do(func() error {
			c := newChooser()
			defer c.close()
			c.set(&f)
			return nil
		}))
		if f.KernelInterface == nil {
			return ""
		}
		return *f.KernelInterface
	}
	want := func(what string, want ...string) {
		t.Helper()
		got := []string{by("tcp", 5432), by("tcp", 80), by("udp", 5432), by("icmp", 0)}
		if !slices.Equal(got, want) {
			t.Errorf("%s: of tcp 5432, tcp 80, udp 5432 and a ping: %q rather than %q", what, got, want)
		}
	}
	want("a rule with a port", "eth1", "eth0", "eth0", "eth0")
	add("fwmark 0x80000/0xff0000 to 192.0.2.0/24")
	want("a mark that does not matter", "eth1", "eth0", "eth0", "eth0")
	add("fwmark 7")
	want("a mark that matters, of a socket without one", "eth1", "", "", "")
}

// TestKernelIsAskedOnce: flows with the same addresses take one question, and more than enough take none.
func TestKernelIsAskedOnce(t *testing.T) {
	_, s := newS1(t)
	await.Must(t, s.B.Do(func() error {
		c := newChooser()
		defer c.close()
		for port := range uint16(10) {
			f := flowOf(netip.AddrPortFrom(s.A.Eth1.Address(topology.IPv4), port), netip.AddrPortFrom(s.B.Eth1.Address(topology.IPv4), 80))
			c.set(&f)
		}
		if len(c.known) != 1 {
			t.Errorf("%d questions", len(c.known))
		}
		for n := range mostAsked {
			peer := netip.AddrFrom4([4]byte{10, 1, byte(n >> 8), byte(n)})
			f := flowOf(netip.AddrPortFrom(peer, 1), netip.AddrPortFrom(s.B.Eth1.Address(topology.IPv4), 80))
			c.set(&f)
			if known := f.KernelInterface != nil; known != (n < mostAsked-1) {
				t.Errorf("question %d: known %v", n, known)
			}
		}
		return nil
	}))
}
