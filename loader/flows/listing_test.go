// SPDX-License-Identifier: Apache-2.0

package flows

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"replypath/bpf"
	"replypath/loader/config"
	"replypath/loader/datapath"
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

// rowOf is that of an established connection.
func rowOf(peer, self netip.AddrPort) *row {
	return &row{in: bpf.DatapathTableTABLE_ESTABLISHED, entry: bpf.DatapathFlow{Tuple: bpf.DatapathTuple{
		Protocol: config.ProtocolTCP,
		Peer:     peer.Addr().As16(), PeerPort: datapath.Port(peer.Port()), Self: self.Addr().As16(), SelfPort: datapath.Port(self.Port()),
	}}}
}

// TestBytes: they are those that the own end sent, also when it is closing, and from an IPv6 socket that serves IPv4.
// What has no socket has none.
func TestBytes(t *testing.T) {
	ctx, s := newS1(t)
	listener := await.Must1[net.Listener](t)(s.B.Listen(ctx, "tcp", "[::]:0"))
	defer listener.Close()
	port := listener.Addr().(*net.TCPAddr).AddrPort().Port()
	var list []*row
	for n, f := range s.Families() {
		self := netip.AddrPortFrom(s.B.Eth0.Address(f), port)
		client := await.Must1[net.Conn](t)(s.A.Dial(ctx, "tcp", self.String()))
		defer client.Close()
		server := await.Must1[net.Conn](t)(listener.Accept())
		defer server.Close()
		peer := client.LocalAddr().(*net.TCPAddr).AddrPort()
		list = append(list, rowOf(netip.AddrPortFrom(peer.Addr().Unmap(), peer.Port()), self))
		await.Must1[int](t)(server.Write(make([]byte, 1000+n)))
		_, err := io.ReadFull(client, make([]byte, 1000+n))
		await.Must(t, err)
		await.Must1[int](t)(client.Write(make([]byte, 10)))
		if n == 0 {
			await.Must(t, server.(*net.TCPConn).CloseWrite())
		}
	}
	list = append(list, rowOf(netip.MustParseAddrPort("192.0.2.1:1"), netip.MustParseAddrPort("10.4.0.100:2")))
	await.Must(t, s.B.Do(func() error { return new(Listing).setBytes(list) }))
	wantBytes(t, list)
	for n := range list {
		list[n].more = nil
	}
	many := slices.Clone(list)
	for port := range uint16(fewConnections + 1) { // a dump then
		many = append(many, rowOf(netip.MustParseAddrPort("192.0.2.1:1"), netip.AddrPortFrom(netip.MustParseAddr("10.4.0.100"), 3+port)))
	}
	await.Must(t, s.B.Do(func() error { return new(Listing).setBytes(many) }))
	wantBytes(t, many[:len(list)])
}

// wantBytes wants those that each connection sent, and none of the last, which is none.
func wantBytes(t *testing.T, list []*row) {
	t.Helper()
	for n, r := range list[:len(list)-1] {
		if r.bytes() == nil || *r.bytes() != uint64(1000+n) {
			t.Errorf("%v: %v bytes rather than %d", r.ends(), r.bytes(), 1000+n)
		}
	}
	if bytes := list[len(list)-1].bytes(); bytes != nil {
		t.Errorf("%d bytes of no socket", *bytes)
	}
}

// TestKernelChoice: it is what the routes say now for both addresses, none where there is no route, and not known where
// the address is none of the host's.
func TestKernelChoice(t *testing.T) {
	_, s := newS1(t)
	want := func(what string, f Flow, name string) {
		t.Helper()
		await.Must(t, s.B.Do(func() error {
			c := newChooser()
			defer c.close()
			c.set(&f)
			return nil
		}))
		if got := f.KernelInterface; name == "" && got != nil || name != "" && (got == nil || *got != name) {
			t.Errorf("%s: %v rather than %q", what, got, name)
		}
	}
	var flows []Flow
	for _, f := range s.Families() {
		self := netip.AddrPortFrom(s.B.Eth1.Address(f), 5432)
		flow := flowOf(netip.AddrPortFrom(s.A.Eth1.Address(f), 50000), self)
		flows = append(flows, flow)
		want("by the default route", flow, "eth0")
		symmetric := flow
		symmetric.Asymmetric = false
		want("a flow that is not asymmetric", symmetric, "")
		near := flowOf(netip.AddrPortFrom(s.B.Eth1.Gateway(f), 50000), self)
		want("a neighbour", near, "eth1")
	}
	foreign := flows[0]
	foreign.Self = "192.0.2.1"
	want("of another host", foreign, "")
	for _, f := range s.Families() {
		await.Must(t, s.B.RemoveRoute(topology.Route{Via: s.B.Eth0.Gateway(f)}))
	}
	for _, flow := range flows {
		want("without a default route", flow, NoInterface)
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
