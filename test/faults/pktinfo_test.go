// SPDX-License-Identifier: Apache-2.0

package faults

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"replypath/bpf"
	"replypath/test/await"
	"replypath/test/host"
	"replypath/test/short"
	"replypath/test/topology"
	"replypath/test/traffic"
	"replypath/test/wire"
)

// A NIC whose gateway stands in no table: sockets that name the NIC for what they send, be it that they are bound to it or that
// they say it with each datagram, have no route for their answers.

// indexPort is where a UDP server listens that sends each answer by the interface of its question, as DNS and DHCP servers
// do: it gives back the interface's index from in_pktinfo or in6_pktinfo.
const indexPort = 7008

// newUnroutedBed has servers at eth1, whose gateway nobody names.
func newUnroutedBed(t testing.TB, f topology.Family) *bed {
	t.Helper()
	b := newBed(t, f, anySource)
	at := netip.AddrPortFrom(b.net.Server.Eth1.Address(f), boundPort)
	traffic.ServeAt(t, b.net.Server.Host, at, topology.BindToDevice("eth1"))
	b.serveByIndex()
	return b
}

// naming are conversations with those servers.
func (b *bed) naming() []*traffic.Conversation {
	b.Helper()
	byIndex := b.conversation(traffic.UDP)
	byIndex.Self = netip.AddrPortFrom(byIndex.Self.Addr(), indexPort)
	return []*traffic.Conversation{b.boundConversation(traffic.TCP), b.boundConversation(traffic.UDP), byIndex}
}

// serveByIndex echoes, and names the interface of the question with each answer.
func (b *bed) serveByIndex() {
	b.Helper()
	network := map[topology.Family]string{topology.IPv4: "udp4", topology.IPv6: "udp6"}[b.family]
	packet, err := b.net.Server.ListenPacket(b.Context(), network, netip.AddrPortFrom(unspecified[b.family], indexPort).String())
	await.Must(b, err)
	conn := packet.(*net.UDPConn)
	raw := await.Must1[syscall.RawConn](b)(conn.SyscallConn())
	var optErr error
	await.Must(b, raw.Control(func(fd uintptr) {
		if b.family == topology.IPv4 {
			optErr = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_PKTINFO, 1)
		} else {
			optErr = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1)
		}
	}))
	await.Must(b, optErr)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		data, control := make([]byte, 1500), make([]byte, 256)
		for {
			n, c, _, from, err := conn.ReadMsgUDP(data, control)
			if err != nil {
				return
			}
			_, _, _ = conn.WriteMsgUDP(data[:n], b.onlyIndex(control[:c]), from) // who asked notices what goes wrong
		}
	}()
	b.Cleanup(func() { conn.Close(); <-ended })
}

// onlyIndex makes a control message that names the interface of another one, and for IPv6 the address, which the route
// would give.
func (b *bed) onlyIndex(control []byte) []byte {
	messages, err := unix.ParseSocketControlMessage(control)
	if err != nil || len(messages) != 1 {
		return nil
	}
	if b.family == topology.IPv4 {
		return unix.PktInfo4(&unix.Inet4Pktinfo{Ifindex: int32(binary.NativeEndian.Uint32(messages[0].Data))})
	}
	var info unix.Inet6Pktinfo
	copy(info.Addr[:], messages[0].Data)
	info.Ifindex = binary.NativeEndian.Uint32(messages[0].Data[16:])
	return unix.PktInfo6(&info)
}

// TestNamedInterface asks servers that name eth1 for their answers before the start, when no answer leaves, right after it, during and after each
// fault, and while no daemon runs; what nobody asked for still does not leave by eth1.
func TestNamedInterface(t *testing.T) {
	t.Parallel()
	each(t, faults, func(t *testing.T, fault fault, f topology.Family) {
		t.Parallel()
		b := newUnroutedBed(t, f)
		b.wantNamingLost("without replypath")
		b.ip("neigh flush dev eth1") // or the kernel goes on asking for the client, to whom it could send nothing
		before := host.TakeSnapshot(t, b.net.Server.Host, "eth0", "eth1")
		d := b.start()
		wires, open := wire.Tap(t, b.net.Server), b.naming()
		answered := 0
		ask := func(when string, all []*traffic.Conversation) {
			for _, c := range all {
				b.askPromptly(when+", "+c.String(), c)
				answered += len(wires.WantEth1(c.String(), c.Answers()))
			}
		}
		for _, step := range []struct {
			name string
			do   func(*bed)
		}{{"right after the start", func(*bed) {}}, {"during " + fault.name, fault.begin}, {"after " + fault.name, func(b *bed) { fault.end(b); b.awaitEth0() }}} {
			step.do(b)
			ask(step.name, open)
			ask(step.name, b.naming())
			b.sendUnasked()
		}
		d.Kill()
		ask("without a daemon", open)
		ask("without a daemon", b.naming())
		b.wantNoLeak(fault.name, wires.Eth1)
		b.wantNoneToNobody(wires)
		b.product.Expect(0, "detach", "--stop")
		if fault.holds { // else eth0 has lost and got back what is its own
			b.wantSnapshot(before)
		}
		if left := b.ip("neigh show dev eth1"); strings.Contains(left, bpf.AnyPeer.String()) {
			t.Errorf("left after detach: %q", left)
		}
		t.Logf("%s: %d frames of answers by eth1 to its router, 0 elsewhere", fault.name, answered)
		b.wantNamingLost("after detach")
	})
}

// awaitEth0 returns when eth0, which may have been made anew, is attached.
func (b *bed) awaitEth0() {
	b.Helper()
	b.Eventually("eth0 is attached", func() error {
		if eth0 := b.product.Status().Interface("eth0"); eth0 == nil || !eth0.Attached {
			return fmt.Errorf("it is %+v", eth0)
		}
		return nil
	})
}

// wantNamingLost wants that no answer leaves by eth1. For IPv6 the kernel heeds the index of in6_pktinfo only where a route
// leads by it, so that such an answer leaves by eth0; no other leaves at all.
func (b *bed) wantNamingLost(when string) {
	b.Helper()
	all := b.naming()
	for _, c := range all {
		wires := wire.Tap(b, b.net.Server)
		if b.family == topology.IPv6 && c.Self.Port() == indexPort {
			b.ask(c)
			wires.WantEth0(when+", "+c.String(), c.Answers())
			continue
		}
		if err := wire.AskUntilLost(b, c, wires.Eth1, c.Questions()); err == nil {
			b.Errorf("%s: %s was answered", when, c)
		}
		if eth0, eth1 := wires.Left(c.Answers()); len(eth0)+len(eth1) > 0 {
			b.Errorf("%s: answers left: %s, %s", when, wire.Describe(eth0), wire.Describe(eth1))
		}
	}
	b.Logf("%s: %d servers asked that name eth1, no answer left by it", when, len(all))
}

// TestNamedInterfaceBegins has sockets of the host's that are bound to eth1 begin something: what they send to somebody who answers
// for himself on the wire (proxy ARP, a cloud's metadata service) goes there as without replypath, what they send to anybody else
// fails no later than without, and nothing leaves for a MAC that nobody has. A route by eth1 to somewhere else changes nothing of that.
func TestNamedInterfaceBegins(t *testing.T) {
	t.Parallel()
	elsewhere := map[topology.Family]string{
		topology.IPv4: "route add 10.50.0.0/16 via 10.2.0.254 dev eth1", topology.IPv6: "-6 route add 2001:db8:50::/48 via 2001:db8:2::fe dev eth1",
	}
	for _, f := range traffic.Families {
		t.Run(f.String()+"/no route", func(t *testing.T) {
			t.Parallel()
			newUnroutedBed(t, f).wantBegins()
		})
		t.Run(f.String()+"/a route to somewhere else", func(t *testing.T) {
			t.Parallel()
			b := newUnroutedBed(t, f)
			b.ip(strings.Fields(elsewhere[f])...)
			b.wantBegins()
		})
	}
}

// wantBegins compares what a socket bound to eth1 begins without replypath and with it.
func (b *bed) wantBegins() {
	b.Helper()
	router, isIPv4 := b.net.Server.Eth1.Peer(), b.family == topology.IPv4
	if isIPv4 {
		await.Must(b, router.Host.SetSysctl("net/ipv4/conf/"+router.Name+"/proxy_arp", "1"))
	}
	without := b.connectByEth1()
	b.start()
	wires := wire.Tap(b, b.net.Server)
	with := b.connectByEth1()
	b.Logf("a connection by eth1 without replypath: %s; with it: %s", without, with)
	if isIPv4 && (without.err != nil || with.err != nil) {
		b.Error("somebody answers for the client on the wire, and is not reached")
	}
	if !isIPv4 && (with.err == nil || with.took >= promptly) {
		b.Error("nobody is there, and it does not fail at once")
	}
	b.wantNoneToNobody(wires)
	if !isIPv4 {
		return
	}
	await.Must(b, router.Host.SetSysctl("net/ipv4/conf/"+router.Name+"/proxy_arp", "0"))
	b.ip("neigh", "flush", "dev", "eth1")
	nobody := b.connectByEth1()
	b.Logf("a connection by eth1 to somebody whom nobody answers for: %s", nobody)
	if nobody.err == nil || nobody.took > await.Patient(4*time.Second) {
		b.Error("it does not fail as without a route")
	}
	b.wantNoneToNobody(wires)
}

// connectByEth1 has a socket that is bound to eth1 connect to the client.
func (b *bed) connectByEth1() failure { return b.connectOnce(topology.BindToDevice("eth1")) }

// syns are the connections that the host begins by eth1.
func (b *bed) syns(wire *topology.Capture) int {
	b.Helper()
	return len(wire.Frames(topology.All(topology.Going(topology.Received), topology.TCP,
		topology.From(b.net.Server.Eth1.Address(b.family)), topology.To(b.clientAddress()), topology.ToPort(traffic.EchoPort))))
}

// TestSourceWithoutEth0 shows what is not survived: while eth0 has no address the kernel takes another NIC's for
// what the host starts. A UDP socket that is connected then keeps it, and by a rule for that address a
// connection leaves by eth1. Without replypath both fail, but by IPv6 where there is the rule: after a lookup that
// fails the kernel takes any address and looks again (net/ipv6/ip6_output.c, ip6_dst_lookup_tail()). With replypath
// the first does not fail, and nothing leaves.
func TestSourceWithoutEth0(t *testing.T) {
	t.Parallel()
	quick := short.Run(t)
	for k, f := range traffic.Families {
		for n, ruled := range []bool{false, true} {
			if quick && k == n {
				continue
			}
			t.Run(fmt.Sprintf("%s/rule %t", f, ruled), func(t *testing.T) {
				t.Parallel()
				for _, product := range []bool{false, true} {
					b := newBed(t, f, anySource)
					if ruled {
						b.ruleForEth1("add")
					}
					if product {
						b.start()
					}
					b.sourceWithoutEth0(ruled, product)
				}
			})
		}
	}
}

func (b *bed) sourceWithoutEth0(ruled, product bool) {
	b.Helper()
	frames := wire.Capture(b, b.net.Server.Eth1.Peer())
	b.deleteEth0()
	if product { // until the daemon hears of it, IPv4's route of last resort serves whatever the host begins
		b.awaitRules(true)
	}
	client := netip.AddrPortFrom(b.clientAddress(), traffic.EchoPort).String()
	connected, udpErr := b.net.Server.Dial(await.Within(b, await.AnswerTime), "udp", client)
	tcpErr := b.reach(traffic.TCP)
	b.replaceEth0()
	b.Eventually("the host reaches the client", func() error { return b.reach(traffic.TCP) })
	source := "none"
	if udpErr == nil {
		defer connected.Close()
		b.Eventually("the socket is answered", func() error { return exchange(connected, promptly) })
		source = connected.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Unmap().String()
	}
	syns := b.syns(frames)
	b.Logf("replypath: %t: a UDP socket that was connected meanwhile has the source %s (%v), connect: %v, %d SYNs by eth1",
		product, source, udpErr, tcpErr, syns)
	looksAgain := ruled && b.family == topology.IPv6
	if has := source == b.net.Server.Eth1.Address(b.family).String(); has != looksAgain {
		b.Errorf("the socket's source is %s, replypath: %t, rule: %t", source, product, ruled)
	}
	if left := syns > 0; left != looksAgain || left != (tcpErr == nil) {
		b.Errorf("%d SYNs by eth1, connect: %v, replypath: %t, rule: %t", syns, tcpErr, product, ruled)
	}
}
