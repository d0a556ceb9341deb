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

// A handshake that ends between two looks is no other flow, nor is one that begins with the tuple of a connection: it
// is one as soon as it takes its place.
func TestChangesOfConnection(t *testing.T) {
	const digest = 7
	look := func(list ...Flow) snapshot {
		s := make(snapshot)
		for _, f := range list {
			s.add(digest, f)
		}
		return s
	}
	halfOpen := func(age float64, via string) Flow {
		return Flow{Interface: &via, State: StateHalfOpen, AgeSeconds: age}
	}
	established := func(age float64, via string) Flow {
		return Flow{Interface: &via, State: StateEstablished, AgeSeconds: age}
	}
	for _, test := range []struct {
		name          string
		before, after snapshot
		want          string
	}{
		{"begins", look(), look(halfOpen(0, "eth1")), EventNew},
		{"handshake ends", look(halfOpen(1, "eth1")), look(established(2, "eth1")), ""},
		{"handshake ends elsewhere", look(halfOpen(1, "eth1")), look(established(2, "eth2")), EventMoved},
		{"another handshake", look(established(9, "eth1")), look(halfOpen(0, "eth2"), established(10, "eth1")), ""},
		{"the same, read the other way round", look(established(9, "eth1")), look(established(10, "eth1"), halfOpen(0, "eth2")), ""},
		{"another connection", look(established(9, "eth1"), halfOpen(0, "eth1")), look(established(1, "eth1")), EventNew},
		{"ends", look(established(9, "eth1")), look(), EventEnded},
	} {
		t.Run(test.name, func(t *testing.T) {
			var got string
			await.Must(t, changes(test.before, test.after, func(f Flow) error { got += f.Event; return nil }))
			if got != test.want {
				t.Errorf("%q, want %q", got, test.want)
			}
		})
	}
}

// Of many flows the first by each order are kept, in order, whatever came first.
func TestRankings(t *testing.T) {
	since, corrected, age := []uint64{5, 0, 9, 9, 1}, []uint64{50, 70, 10, 90, 60}, []time.Duration{3, 1, 5, 2, 4}
	for order, want := range map[Order][]uint64{
		ByRate:      {2, 3, 0}, // equal ones by their digests
		ByCorrected: {3, 1, 4},
		ByAge:       {1, 3, 0},
	} {
		for _, offered := range [][]int{{0, 1, 2, 3, 4}, {4, 3, 2, 1, 0}, {3, 0, 4, 2, 1}} {
			r := (&Meter{Order: order, Limit: 3}).newRanking()
			for _, i := range offered {
				flow := bpf.DatapathFlow{Corrected: corrected[i]}
				r.offer(candidate{id: life{digest: uint64(i)}, flow: &flow, age: age[i], since: since[i]})
				flow.Corrected = 0 // it is read into again
			}
			var got []uint64
			for _, c := range r.best {
				got = append(got, c.id.digest)
				if c.flow.Corrected != corrected[c.id.digest] {
					t.Errorf("%s: flow %d has %d packets corrected", order, c.id.digest, c.flow.Corrected)
				}
			}
			if !slices.Equal(got, want) {
				t.Errorf("%s of %v: %v, not %v", order, offered, got, want)
			}
		}
	}
}

// TestEnded: a closed connection leaves the list once its last packets were shown.
func TestEnded(t *testing.T) {
	closing := bpf.DatapathFlow{State: uint8(bpf.DatapathFlowStateFLOW_CLOSING)}
	reset := bpf.DatapathFlow{Flags: uint16(bpf.DatapathFlowFlagsFLOW_RESET)}
	for _, test := range []struct {
		flow  bpf.DatapathFlow
		since uint64
		want  bool
	}{{closing, 0, true}, {closing, 1, false}, {reset, 0, true}, {bpf.DatapathFlow{}, 0, false}} {
		if c := (candidate{flow: &test.flow, since: test.since}); c.isOver() != test.want {
			t.Errorf("state %d, flags %d, %d packets: it has ended: %t", test.flow.State, test.flow.Flags, test.since, !test.want)
		}
	}
}

func TestMeterSince(t *testing.T) {
	id := life{digest: 1, created: 10}
	flow := &bpf.DatapathFlow{Corrected: 7}
	for _, test := range []struct {
		what   string
		before map[life]uint64
		want   uint64
	}{
		{"the first look", nil, 0},
		{"a flow that was not there", map[life]uint64{{digest: 2, created: 10}: 3}, 7},
		{"another flow of the tuple", map[life]uint64{{digest: 1, created: 9}: 3}, 7},
		{"a flow that was there", map[life]uint64{id: 3}, 4},
		{"a table that was emptied", map[life]uint64{id: 9}, 0},
	} {
		m := Meter{corrected: test.before}
		if got := m.since(id, flow); got != test.want {
			t.Errorf("%s: %d, not %d", test.what, got, test.want)
		}
	}
}
