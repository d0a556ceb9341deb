// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"golang.org/x/sys/unix"

	"replypath/test/harness"
	"replypath/test/topology"
)

// wantErrors has a UDP socket learn of errors that end no connection as well.
func wantErrors(t *testing.T, conn net.Conn, f topology.Family) {
	t.Helper()
	raw := harness.Must1[syscall.RawConn](t)(conn.(*net.UDPConn).SyscallConn())
	var err error
	harness.Must(t, raw.Control(func(fd uintptr) {
		if f == topology.IPv4 {
			err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_RECVERR, 1)
		} else {
			err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_RECVERR, 1)
		}
	}))
	harness.Must(t, err)
}

// ways tells where replypath sends the replies of each flow.
func ways(p *harness.Product) map[string]string {
	all := make(map[string]string)
	for _, flow := range p.Flows() {
		all[flow.String()] = fmt.Sprintf("%s, by %s to %s", flow.State, harness.OrEmpty(flow.Interface), harness.OrEmpty(flow.NextHopMAC))
	}
	return all
}

// wantNoMoves wants that nothing has moved, nor tried to.
func wantNoMoves(t *testing.T, p *harness.Product) {
	t.Helper()
	m := p.Metrics()
	if n := m.Sum("replypath_flow_moves_total") + m.Sum("replypath_flow_moves_refused_total"); n != 0 {
		t.Errorf("%v moves", n)
	}
}

// TestErrorsArrive has a server's answers end up nowhere, by the corrected way: what
// the client says of it, and a router on the way, reaches the socket that sent them,
// and moves nothing. Without replypath the answers get nowhere near.
func TestErrorsArrive(t *testing.T) {
	n := harness.NewTwoNIC(t, topology.TwoNICOptions{Policy: topology.StrictSource})
	promptErrors(t, n.Client)
	promptErrors(t, n.Replication.Host)
	p := harness.On(t, n.Server.Host)
	read := func(d *datagrams) error {
		_, err := d.server.Read(make([]byte, 100))
		return err
	}
	for _, f := range harness.Families {
		wires := harness.Tap(t, n.Server)
		d := askDatagrams(t, n.ClientEth0, n.Server.Eth1, f)
		harness.Must(t, d.client.Close())
		d.send(t, 100)
		answers := topology.All(topology.UDP, topology.From(n.Server.Eth1.Address(f)))
		wait(t, wires.Eth0, answers)
		wires.WantEth0("without replypath", answers)
		harness.Eventually(t, "the answer is dropped", func() error {
			if harness.Must1[uint64](t)(n.Production.Drops()) == 0 {
				return errors.New("not yet")
			}
			return nil
		})
	}
	p.Start()
	unreachable := map[topology.Family]error{topology.IPv4: unix.EHOSTUNREACH, topology.IPv6: unix.ENETUNREACH}
	for _, f := range harness.Families {
		t.Run(f.String(), func(t *testing.T) {
			wires := harness.Tap(t, n.Server)
			refused := askDatagrams(t, n.ClientEth0, n.Server.Eth1, f)
			lost := askDatagrams(t, n.ClientEth0, n.Server.Eth1, f)
			wantErrors(t, lost.server, f)
			before := ways(p.In(t))
			harness.Must(t, refused.client.Close())
			refused.send(t, 100)
			if err := read(refused); !errors.Is(err, unix.ECONNREFUSED) {
				t.Errorf("the client has closed its socket: read %v", err)
			}
			route := "unreachable " + n.ClientEth0.Address(f).String()
			harness.Shell(t, n.Replication.Host, "ip route add "+route)
			lost.send(t, 100)
			if err := read(lost); !errors.Is(err, unreachable[f]) {
				t.Errorf("the client cannot be reached: read %v", err)
			}
			harness.Shell(t, n.Replication.Host, "ip route del "+route)
			lost.send(t, 100)
			lost.wantArrival(t, 100)
			wires.WantEth1("the answers", topology.All(topology.UDP, topology.From(n.Server.Eth1.Address(f))))
			if diff := cmp.Diff(before, ways(p.In(t))); diff != "" {
				t.Errorf("flows (-before +after):\n%s", diff)
			}
		})
	}
	wantNoMoves(t, p)
}

// stranger has nothing to do with any of the flows.
var stranger = addresses("10.99.0.1", "2001:db8:99::1")

// nonsense are quotes that no packet of the server's fits, or that are none; by name.
func nonsense(c *harness.Conversation, foreign netip.Addr) map[string][]byte {
	self, peer := c.Self, c.Peer
	of := func(from, to netip.AddrPort) []byte { return quoted(from, to, protocolOf(c)) }
	whole := of(self, peer)
	wrongVersion := append([]byte(nil), whole...)
	wrongVersion[0] ^= 0xf0
	all := map[string][]byte{
		"nothing":                nil,
		"one byte":               whole[:1],
		"half a header":          whole[:12],
		"no ports":               whole[:len(whole)-8],
		"half of the ports":      whole[:len(whole)-6],
		"a wrong version":        wrongVersion,
		"the peer's own packet":  of(peer, self),
		"another port":           of(self, netip.AddrPortFrom(peer.Addr(), 1)),
		"somebody else's packet": of(netip.AddrPortFrom(foreign, 80), peer),
		"a wrong number":         whole,
		"an unknown protocol":    quoted(self, peer, experimental),
		"an error":               quoted(self, peer, layers.IPProtocolICMPv4),
		"garbage":                []byte("0123456789012345678901234567890123456789"),
	}
	if self.Addr().Is4() {
		longHeader, laterFragment := append([]byte(nil), whole...), append([]byte(nil), whole...)
		longHeader[0] = 0x4f
		laterFragment[7] = 1
		all["a header that is too long"], all["a later fragment"] = longHeader, laterFragment
	} else {
		endless := append([]byte(nil), whole...)
		endless[6] = byte(layers.IPProtocolIPv6HopByHop)
		all["extension headers"] = endless
	}
	return all
}

// protocolOf is that of a conversation by TCP or UDP.
func protocolOf(c *harness.Conversation) layers.IPProtocol {
	if c.Kind == harness.TCP {
		return layers.IPProtocolTCP
	}
	return layers.IPProtocolUDP
}

// quoted is the beginning of a packet: its IP header and eight bytes, as every error
// quotes them. What should be a sequence number is not plausible.
func quoted(from, to netip.AddrPort, protocol layers.IPProtocol) []byte {
	_, ip := ipHeaders(nil, nil, from.Addr(), to.Addr(), protocol)
	rest := binary.BigEndian.AppendUint16(nil, from.Port())
	rest = binary.BigEndian.AppendUint16(rest, to.Port())
	rest = binary.BigEndian.AppendUint32(rest, 12345)
	buffer := gopacket.NewSerializeBuffer()
	options := gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}
	if err := gopacket.SerializeLayers(buffer, options, ip, gopacket.Payload(rest)); err != nil {
		panic(err)
	}
	return buffer.Bytes()
}

// errorFrame is an ICMP error with any quote.
func errorFrame(fromMAC, toMAC net.HardwareAddr, from, to netip.Addr, k kind, quote []byte) []gopacket.SerializableLayer {
	if from.Is4() {
		ethernet, ip := ipHeaders(fromMAC, toMAC, from, to, layers.IPProtocolICMPv4)
		return []gopacket.SerializableLayer{ethernet, ip, &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(k.kind, k.code)}, gopacket.Payload(quote)}
	}
	ethernet, ip := ipHeaders(fromMAC, toMAC, from, to, layers.IPProtocolICMPv6)
	icmp := &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(k.kind, k.code)}
	_ = icmp.SetNetworkLayerForChecksum(ip.(gopacket.NetworkLayer))
	return []gopacket.SerializableLayer{ethernet, ip, icmp, gopacket.Payload(append(make([]byte, 4), quote...))}
}

// TestNonsenseErrors has errors of every kind come in by both NICs that quote nothing
// that fits: conversations go on as before, by the NIC that they came in by, and no
// flow begins, ends or moves.
func TestNonsenseErrors(t *testing.T) {
	n := harness.NewTwoNIC(t, topology.TwoNICOptions{Policy: topology.StrictSource})
	p := harness.On(t, n.Server.Host)
	p.Start()
	errors4 := []kind{{3, 0}, {3, 1}, {3, 2}, {3, 3}, {3, 4}, {4, 0}, {5, 1}, {11, 0}, {11, 1}, {12, 0}}
	errors6 := []kind{{1, 0}, {1, 1}, {1, 3}, {1, 4}, {2, 0}, {3, 0}, {3, 1}, {4, 0}, {4, 1}, {4, 2}, {137, 0}}
	for _, f := range harness.Families {
		t.Run(f.String(), func(t *testing.T) {
			p := p.In(t)
			var begun []*harness.Conversation
			for _, kind := range harness.Kinds {
				c := harness.NewConversation(t, kind, n.ClientEth0, n.Server.Eth1.Address(f))
				harness.Ask(t, c)
				begun = append(begun, c)
			}
			before := ways(p)
			wires := harness.Tap(t, n.Server)
			kinds := map[topology.Family][]kind{topology.IPv4: errors4, topology.IPv6: errors6}[f]
			sent := 0
			for _, nic := range []*topology.Interface{n.Server.Eth0, n.Server.Eth1} {
				injector, at := harness.NewInjector(t, nic.Peer()), nic.Peer()
				for _, c := range begun[1:] { // a ping quotes no ports
					for _, quote := range nonsense(c, stranger[f]) {
						for _, k := range kinds {
							injector.Send(errorFrame(at.MAC, nic.MAC, c.Peer.Addr(), c.Self.Addr(), k, quote)...)
							sent++
						}
					}
				}
			}
			for _, c := range begun {
				for range 3 {
					harness.Ask(t, c)
				}
				wires.WantEth1(c.String(), c.Answers())
			}
			if diff := cmp.Diff(before, ways(p)); diff != "" {
				t.Errorf("flows after %d errors (-before +after):\n%s", sent, diff)
			}
		})
	}
	wantNoMoves(t, p)
}

// TestForeignErrorsLeave has a program on the server send errors to the client: those
// that are about nothing which came in by eth1 go where the routing table says.
func TestForeignErrorsLeave(t *testing.T) {
	n := harness.NewTwoNIC(t, topology.TwoNICOptions{Policy: topology.AnySource})
	p := harness.On(t, n.Server.Host)
	p.Start()
	for _, f := range harness.Families {
		t.Run(f.String(), func(t *testing.T) {
			c := harness.NewConversation(t, harness.TCP, n.ClientEth0, n.Server.Eth1.Address(f))
			harness.Ask(t, c)
			network := map[topology.Family]string{topology.IPv4: "ip4:icmp", topology.IPv6: "ip6:ipv6-icmp"}[f]
			conn := harness.Must1[net.PacketConn](t)(n.Server.ListenPacket(t.Context(), network, c.Self.Addr().String()))
			defer conn.Close()
			wires := harness.Tap(t, n.Server)
			unreachable := answeredWithErrors[0].error[f]
			sent := make(map[string]topology.Filter)
			for name, quote := range nonsense(c, stranger[f]) {
				sent[name] = topology.All(icmpOf(f, unreachable), quoting([]byte(fmt.Sprintf("|%s|", name))))
				// No error of this size quotes anything but what it begins with.
				message := append([]byte{unreachable.kind, unreachable.code, 0, 0, 0, 0, 0, 0}, quote...)
				message = fmt.Appendf(message, "|%s|", name)
				if f == topology.IPv4 {
					binary.BigEndian.PutUint16(message[2:], internetChecksum(message))
				}
				harness.Must1[int](t)(conn.WriteTo(message, &net.IPAddr{IP: c.Peer.Addr().AsSlice()}))
			}
			const genuine = "the peer's own packet"
			wires.WantEth1(genuine, sent[genuine])
			delete(sent, genuine)
			for name, frames := range sent {
				wires.WantEth0(name, frames)
			}
			harness.Ask(t, c)
			wires.WantEth1(c.String(), c.Answers())
		})
	}
}

// internetChecksum is that of RFC 1071.
func internetChecksum(data []byte) uint16 {
	var sum uint32
	for i := 0; i+1 < len(data); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(data[i:]))
	}
	if len(data)%2 == 1 {
		sum += uint32(data[len(data)-1]) << 8
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}
