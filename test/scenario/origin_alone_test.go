// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"replypath/test/await"
	"replypath/test/host"
	"replypath/test/product"
	"replypath/test/topology"
	"replypath/test/traffic"
	"replypath/test/wire"
)

// Addresses of B and of others, and ports.
var (
	ofBoth    = addresses("10.77.0.1", "2001:db8:77::1") // eth0 and eth1 have it
	ofLo      = addresses("10.78.0.1", "2001:db8:78::1") // lo has it
	ofLink    = addresses("169.254.9.9", "fe80::9")      // a neighbour
	ofGroup   = addresses("239.9.9.9", "ff0e::9")
	dhcpPorts = map[topology.Family][2]uint16{topology.IPv4: {68, 67}, topology.IPv6: {546, 547}}
)

const excludedPort = 8008

// leftAlone are datagrams that the strong host model does not heed, though eth1's address is their source or names no
// interface.
func leftAlone(s *topology.S1, f topology.Family) []leaving {
	eth1, a := s.B.Eth1.Address(f), s.A.Eth1.Address(f)
	to := func(peer netip.Addr) netip.AddrPort { return netip.AddrPortFrom(peer, closedPort) }
	from := func(self netip.Addr) netip.AddrPort { return netip.AddrPortFrom(self, 0) }
	return []leaving{
		datagram(s, "an address of two interfaces", from(ofBoth[f]), to(a)),
		datagram(s, "an address of lo", from(ofLo[f]), to(a)),
		datagram(s, "a group", from(eth1), to(ofGroup[f])),
		datagram(s, "a neighbour by link-local address", from(eth1), to(ofLink[f])),
		datagram(s, "DHCP", netip.AddrPortFrom(eth1, dhcpPorts[f][0]), netip.AddrPortFrom(a, dhcpPorts[f][1])),
		datagram(s, "an exclusion", netip.AddrPortFrom(eth1, excludedPort), to(a)),
		rawPacket(s, f, experimental), // not listed
	}
}

// datagram is one that B sends, to a group or a neighbour by eth0.
func datagram(s *topology.S1, name string, from, to netip.AddrPort, options ...topology.SocketOption) leaving {
	frames := topology.All(topology.UDP, topology.From(from.Addr()), topology.To(to.Addr()), topology.ToPort(to.Port()))
	return leaving{name, frames, func(t *testing.T) {
		conn := await.Must1[net.PacketConn](t)(s.B.ListenPacket(t.Context(), "udp", from.String(), options...))
		defer conn.Close()
		sendGroupsBy(t, conn.(*net.UDPConn), topology.FamilyOf(from.Addr()), s.B.Eth0.Index)
		address := net.UDPAddrFromAddrPort(to)
		if to.Addr().Is6() && to.Addr().IsLinkLocalUnicast() {
			address.Zone = fmt.Sprint(s.B.Eth0.Index)
		}
		await.Must1[int](t)(conn.WriteTo([]byte("datagram"), address))
	}}
}

// sendGroupsBy chooses the interface for groups: for IPv4 it would be that of the source.
func sendGroupsBy(t *testing.T, conn *net.UDPConn, f topology.Family, index int) {
	t.Helper()
	raw := await.Must1[syscall.RawConn](t)(conn.SyscallConn())
	var err error
	await.Must(t, raw.Control(func(fd uintptr) {
		if f == topology.IPv4 {
			err = unix.SetsockoptIPMreqn(int(fd), unix.IPPROTO_IP, unix.IP_MULTICAST_IF, &unix.IPMreqn{Ifindex: int32(index)})
		} else {
			err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_IF, index)
		}
	}))
	await.Must(t, err)
}

// TestStrongHostWithoutGateway: where no gateway of eth1 is known, what B begins goes as routed, and explain says
// why; but to a neighbour of eth1's, for whose MAC the kernel asks, by eth1. With a gateway all of it goes by eth1.
func TestStrongHostWithoutGateway(t *testing.T) {
	s := newBeginner(t, topology.StrictSource)
	p := product.On(t, s.B.Host)
	p.Start("--config", product.WriteConfig(t, "host_model: strong\n"))
	want := func(t *testing.T, c *traffic.Conversation, verdict, reason, leavesBy string) {
		t.Helper()
		e := explained(t, p, reversed(c))
		wantVerdict(t, e, verdict, reason)
		if by, kernel, way := product.OrEmpty(e.LeavesBy), product.OrEmpty(e.Kernel.Interface), product.OrEmpty(e.Replypath.Interface); by != leavesBy ||
			kernel != "eth0" || way != "eth1" || (e.Replypath.NextHopMAC == nil) != (reason != "") {
			t.Errorf("%s: %s", c, e)
		}
	}
	eachBegun(t, s, "without a gateway", func(t *testing.T, c *traffic.Conversation) {
		want(t, c, "fallback", "no_next_hop", "eth0")
		wantBegunLost(t, s, c)
		want(t, c, "fallback", "no_next_hop", "eth0")
		wantOriginated(t, p, c, "routed")
	})
	m := p.Metrics()
	if all, reason := m.Sum("replypath_originated_packets_total"), m.Sum("replypath_originated_routed_packets_total", "reason=no_next_hop"); reason == 0 || reason != all {
		t.Errorf("of %v packets %v have the reason", all, reason)
	}
	onLink(t, s, p)
	for _, f := range s.Families() { // of no peer's: it only names the gateway
		host.Shell(t, s.B.Host, fmt.Sprintf("ip route add default via %s dev eth1 metric 5000", s.B.Eth1.Gateway(f)))
		awaitAnswer(t, fromEth1(t, s, traffic.Ping, f))
	}
	eachBegun(t, s, "with a gateway", func(t *testing.T, c *traffic.Conversation) {
		want(t, c, "strong-host", "", "eth1")
		wantBegun(t, s, c)
	})
}

// awaitAnswer asks until an answer comes: what waits for a MAC is lost.
func awaitAnswer(t *testing.T, c *traffic.Conversation) {
	t.Helper()
	await.Eventually(t, c.String()+" is answered", func() error {
		return c.Ask(await.Within(t, 4*await.SilenceTime))
	})
}

// onLink has B begin to a neighbour of eth1's, to whom a route leads by eth0.
func onLink(t *testing.T, s *topology.S1, p *product.Product) {
	t.Helper()
	neighbour := s.B.Eth1.Peer()
	for _, f := range s.Families() {
		traffic.Serve(t, s.Replication.Host, neighbour.Address(f))
		route := fmt.Sprintf(" %s via %s", neighbour.Address(f), s.B.Eth0.Gateway(f))
		host.Shell(t, s.B.Host, "ip route add"+route)
		defer host.Shell(t, s.B.Host, "ip route del"+route)
	}
	p.Expect(0, "mode", "observe")
	sampled(t, s.Families(), "observe", func(t *testing.T, f topology.Family, kind traffic.Kind) {
		c, wires := traffic.NewConversation(t, kind, s.B.Eth1, neighbour.Address(f)), wire.Tap(t, s.B)
		err := c.Ask(await.Within(t, 4*await.SilenceTime))
		if _, eth1 := wires.Left(c.Questions()); len(eth1) > 0 {
			t.Errorf("%d questions left by eth1: %v", len(eth1), err)
		}
	})
	p.Expect(0, "mode", "enforce")
	traffic.EachQuestion(t, "on link", func(t *testing.T, f topology.Family, kind traffic.Kind) {
		host.Shell(t, s.B.Host, "ip neighbour flush dev eth1")
		awaitAnswer(t, traffic.NewConversation(t, traffic.Ping, s.B.Eth1, neighbour.Address(f)))
		c, wires := traffic.NewConversation(t, kind, s.B.Eth1, neighbour.Address(f)), wire.Tap(t, s.B)
		traffic.AskSizes(t, c)
		wires.WantEth1(c.String(), c.Questions())
	})
}
