// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"replypath/test/harness"
	"replypath/test/topology"
)

// inBoth is for each family.
func inBoth(v4, v6 string) map[topology.Family]netip.Addr {
	return map[topology.Family]netip.Addr{topology.IPv4: netip.MustParseAddr(v4), topology.IPv6: netip.MustParseAddr(v6)}
}

// Addresses of B and of others, and ports.
var (
	ofBoth    = inBoth("10.77.0.1", "2001:db8:77::1") // eth0 and eth1 have it
	ofLo      = inBoth("10.78.0.1", "2001:db8:78::1") // lo has it
	ofLink    = inBoth("169.254.9.9", "fe80::9")      // a neighbour
	ofGroup   = inBoth("239.9.9.9", "ff0e::9")
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
		conn := harness.Must1[net.PacketConn](t)(s.B.ListenPacket(t.Context(), "udp", from.String(), options...))
		defer conn.Close()
		sendGroupsBy(t, conn.(*net.UDPConn), topology.FamilyOf(from.Addr()), s.B.Eth0.Index)
		address := net.UDPAddrFromAddrPort(to)
		if to.Addr().Is6() && to.Addr().IsLinkLocalUnicast() {
			address.Zone = fmt.Sprint(s.B.Eth0.Index)
		}
		harness.Must1[int](t)(conn.WriteTo([]byte("datagram"), address))
	}}
}

// sendGroupsBy chooses the interface for groups: for IPv4 it would be that of the source.
func sendGroupsBy(t *testing.T, conn *net.UDPConn, f topology.Family, index int) {
	t.Helper()
	raw := harness.Must1[syscall.RawConn](t)(conn.SyscallConn())
	var err error
	harness.Must(t, raw.Control(func(fd uintptr) {
		if f == topology.IPv4 {
			err = unix.SetsockoptIPMreqn(int(fd), unix.IPPROTO_IP, unix.IP_MULTICAST_IF, &unix.IPMreqn{Ifindex: int32(index)})
		} else {
			err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_IF, index)
		}
	}))
	harness.Must(t, err)
}

// TestStrongHostLeavesAlone has B send what the strong host model leaves alone: it leaves by eth0 as without replypath, and
// is not counted. Only of a socket that is bound to eth0 the reason is.
func TestStrongHostLeavesAlone(t *testing.T) {
	s := newBeginner(t, topology.StrictSource)
	lo := harness.Must1[*topology.Interface](t)(s.B.Interface("lo"))
	var alone, bound, moved []leaving
	for _, f := range s.Families() {
		for at, address := range map[*topology.Interface]netip.Addr{s.B.Eth0: ofBoth[f], s.B.Eth1: ofBoth[f], lo: ofLo[f]} {
			harness.Must(t, at.AddAddress(netip.PrefixFrom(address, address.BitLen())))
		}
		harness.Must(t, s.B.Eth0.AddNeighbour(ofLink[f], s.B.Eth0.Peer().MAC))
		harness.Must(t, s.B.Eth1.Resolve(harness.Within(t, harness.AnswerTime), s.B.Eth1.Gateway(f)))
		from, to := netip.AddrPortFrom(s.B.Eth1.Address(f), 0), netip.AddrPortFrom(s.A.Eth1.Address(f), closedPort)
		alone = append(alone, leftAlone(s, f)...)
		bound = append(bound, datagram(s, "a bound socket", from, to, topology.BindToDevice("eth0")))
		moved = append(moved, datagram(s, "any other", from, to))
	}
	run(t, s.B.Host, "ip address add 169.254.7.7/32 dev eth1")
	linkLocal := netip.AddrPortFrom(netip.MustParseAddr("169.254.7.7"), 0)
	alone = append(alone, datagram(s, "from a link-local address", linkLocal, netip.AddrPortFrom(s.A.Eth1.Address(topology.IPv4), closedPort)))
	run(t, s.B.Host, "ip route add 169.254.9.9 dev eth0")

	everything := append(append(alone, bound...), moved...)
	wantByEth0(t, s, everything)
	p := harness.On(t, s.B.Host)
	p.Start("--config", harness.WriteConfig(t, strongHost(s)+fmt.Sprintf("exclude: [{protocol: udp, self_port: %d}]\n", excludedPort)))
	counted := func(name string, labels ...string) int {
		return int(p.Metrics().Sum("replypath_originated_"+name, labels...))
	}
	if frames, n := wantByEth0(t, s, alone), counted("packets_total"); n > 0 || len(p.Flows("--originated")) > 0 {
		t.Errorf("of %d frames that are left alone %d are counted", frames, n)
	}
	frames := wantByEth0(t, s, bound)
	if n, reason := counted("packets_total"), counted("routed_packets_total", "reason=bound_device"); n != frames || reason != frames {
		t.Errorf("of %d frames of bound sockets %d are counted, %d with the reason", frames, n, reason)
	}
	wantLeaving(t, s, moved, true)
	t.Logf("%d kinds of datagrams left as without replypath", len(alone)+len(bound))
}

// wantByEth0 has B send, and wants all of it by eth0. It returns how many frames that were.
func wantByEth0(t *testing.T, s *topology.S1, all []leaving) (count int) {
	t.Helper()
	wires := harness.Tap(t, s.B)
	for _, l := range all {
		l.send(t)
		if _, err := wires.Eth0.Wait(harness.Within(t, harness.AnswerTime), topology.All(l.frames, topology.Going(topology.Received))); err != nil {
			t.Errorf("%s: %v", l.name, err)
		}
	}
	for _, l := range all {
		eth0, eth1 := wires.Left(l.frames)
		if count += len(eth0); len(eth1) > 0 {
			t.Errorf("%s: by eth1 left %s", l.name, harness.Describe(eth1))
		}
	}
	return count
}

// TestStrongHostWithoutGateway: where no gateway of eth1 is known, what B begins goes as routed, and explain says why. With
// one it goes by eth1.
func TestStrongHostWithoutGateway(t *testing.T) {
	s := newBeginner(t, topology.StrictSource)
	p := harness.On(t, s.B.Host)
	p.Start("--config", harness.WriteConfig(t, "host_model: strong\n"))
	want := func(t *testing.T, c *harness.Conversation, verdict, reason, leavesBy string) {
		t.Helper()
		e := explained(t, p, reversed(c))
		wantVerdict(t, e, verdict, reason)
		if by, kernel, way := harness.OrEmpty(e.LeavesBy), harness.OrEmpty(e.Kernel.Interface), harness.OrEmpty(e.Replypath.Interface); by != leavesBy ||
			kernel != "eth0" || way != "eth1" || (e.Replypath.NextHopMAC == nil) != (reason != "") {
			t.Errorf("%s: %s", c, e)
		}
	}
	eachBegun(t, s, "without a gateway", func(t *testing.T, c *harness.Conversation) {
		want(t, c, "fallback", "no_next_hop", "eth0")
		wantBegunLost(t, s, c)
		want(t, c, "fallback", "no_next_hop", "eth0")
		wantOriginated(t, p, c, "routed")
	})
	m := p.Metrics()
	if all, reason := m.Sum("replypath_originated_packets_total"), m.Sum("replypath_originated_routed_packets_total", "reason=no_next_hop"); reason == 0 || reason != all {
		t.Errorf("of %v packets %v have the reason", all, reason)
	}
	for _, f := range s.Families() { // of no peer's: it only names the gateway
		run(t, s.B.Host, fmt.Sprintf("ip route add default via %s dev eth1 metric 5000", s.B.Eth1.Gateway(f)))
		harness.Eventually(t, "the gateway is known", func() error {
			ctx, cancel := context.WithTimeout(t.Context(), 4*harness.SilenceTime)
			defer cancel()
			return fromEth1(t, s, harness.Ping, f).Ask(ctx)
		})
	}
	eachBegun(t, s, "with a gateway", func(t *testing.T, c *harness.Conversation) {
		want(t, c, "strong-host", "", "eth1")
		wantBegun(t, s, c)
	})
}
