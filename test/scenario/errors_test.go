// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"golang.org/x/sys/unix"

	"replypath/test/await"
	"replypath/test/host"
	"replypath/test/product"
	"replypath/test/topology"
	"replypath/test/traffic"
	"replypath/test/wire"
)

// kind is type and code of an ICMP message.
type kind struct{ kind, code uint8 }

// packet is one in layers.
type packet = []gopacket.SerializableLayer

// provocation is a packet that its receiver answers with an ICMP error.
type provocation struct {
	protocol layers.IPProtocol
	error    map[topology.Family]kind // what it is answered with
}

// kinds are those of both families.
func kinds(v4, v6 kind) map[topology.Family]kind {
	return map[topology.Family]kind{topology.IPv4: v4, topology.IPv6: v6}
}

// experimental is a protocol (RFC 3692, 2.1) that nobody listens for, and that is not listed.
const experimental = 253

// Errors about what starts a flow, and about what starts none. Others, and what they quote, are in package bpf.
var (
	portUnreachable     = provocation{layers.IPProtocolUDP, kinds(kind{3, 3}, kind{1, 4})}
	protocolUnreachable = provocation{experimental, kinds(kind{3, 2}, kind{4, 1})}
)

// String names it in a message.
func (p provocation) String() string { return "the error about " + p.protocol.String() }

// mark is what a provocation is known by, wherever it is quoted.
func (p provocation) mark(f topology.Family) gopacket.Payload {
	mark := make(gopacket.Payload, 40)
	copy(mark, fmt.Sprintf("%s/%s", f, p))
	return mark
}

// frame puts the provocation into a frame.
func (p provocation) frame(fromMAC, toMAC net.HardwareAddr, from, to netip.Addr) packet {
	ethernet, ip := traffic.IPHeaders(fromMAC, toMAC, from, to, p.protocol)
	mark := p.mark(topology.FamilyOf(to))
	if p.protocol != layers.IPProtocolUDP {
		return packet{ethernet, ip, mark}
	}
	udp := &layers.UDP{SrcPort: 4000, DstPort: closedPort}
	_ = udp.SetNetworkLayerForChecksum(ip.(gopacket.NetworkLayer))
	return packet{ethernet, ip, udp, mark}
}

// answer matches the error that it is answered with.
func (p provocation) answer(f topology.Family) topology.Filter {
	return topology.All(icmpOf(f, p.error[f]), quoting(p.mark(f)))
}

// icmpOf matches an ICMP message.
func icmpOf(f topology.Family, k kind) topology.Filter {
	protocol := map[topology.Family]layers.IPProtocol{topology.IPv4: layers.IPProtocolICMPv4, topology.IPv6: layers.IPProtocolICMPv6}[f]
	return topology.All(topology.Protocol(protocol), func(frame *topology.Frame) bool {
		return frame.ICMPType == k.kind && frame.ICMPCode == k.code
	})
}

// quoting matches frames that have these bytes anywhere.
func quoting(mark []byte) topology.Filter {
	return func(frame *topology.Frame) bool { return bytes.Contains(frame.Data, mark) }
}

// promptErrors has a host send every error.
func promptErrors(t *testing.T, host *topology.Host) {
	t.Helper()
	for key, value := range map[string]string{
		// A limit of 0 would leave nothing for other limits of the same peer.
		"net/ipv4/icmp_ratemask": "0", "net/ipv6/icmp/ratemask": "255",
	} {
		await.Must(t, host.SetSysctl(key, value))
	}
}

// provoke has what is behind eth1 send packets there, in the client's name, and wants the errors by one of the server's
// NICs. It returns all of them.
func provoke(t *testing.T, n *topology.TwoNIC, eth1 bool, provocations ...provocation) (frames []*topology.Frame) {
	t.Helper()
	wires, nic := wire.Tap(t, n.Server), n.Server.Eth1
	injector := traffic.NewInjector(t, nic.Peer())
	for _, f := range traffic.Families {
		for _, p := range provocations {
			injector.Send(p.frame(nic.Peer().MAC, nic.MAC, n.ClientEth0.Address(f), nic.Address(f))...)
			what := p.String() + ", " + f.String()
			waitLeft(t, wires, what, p.answer(f))
			frames = append(frames, wires.Want(eth1, what, p.answer(f))...)
		}
	}
	return frames
}

// waitLeft waits until a frame has left a server, by whichever NIC.
func waitLeft(t *testing.T, wires *wire.Wires, what string, frame topology.Filter) {
	t.Helper()
	await.Eventually(t, what, func() error {
		if eth0, eth1 := wires.Left(frame); len(eth0)+len(eth1) == 0 {
			return fmt.Errorf("it has not left; by eth0 %s", wire.Describe(wires.Eth0.Frames(topology.Any)))
		}
		return nil
	})
}

// counted is what the metrics say about packets from eth0 to eth1.
type counted struct{ asymmetric, corrected, bytes, observed, uncorrected float64 }

func countedBy(p *product.Product) counted {
	m := p.Metrics()
	sum := func(name string, labels ...string) float64 {
		return m.Sum("replypath_"+name+"_total", append(labels, "from_interface=eth0", "to_interface=eth1")...)
	}
	return counted{
		sum("asymmetric_packets"), sum("corrected_packets"), sum("corrected_bytes"),
		sum("uncorrected_packets", "reason=observe"), sum("uncorrected_packets"),
	}
}

// wantCounted wants the metrics to have grown by these frames.
func wantCounted(t *testing.T, p *product.Product, before counted, frames []*topology.Frame, moved bool) {
	t.Helper()
	n, size := float64(len(frames)), float64(wire.Bytes(frames))
	want := counted{before.asymmetric + n, before.corrected, before.bytes, before.observed + n, before.uncorrected + n}
	if moved {
		want = counted{before.asymmetric + n, before.corrected + n, before.bytes + size, before.observed, before.uncorrected}
	}
	if got := countedBy(p); got != want {
		t.Errorf("counted %+v, not %+v", got, want)
	}
}

// refusal is what a client asks in vain, by which rule of the server's firewall, if any, and what it learns.
type refusal struct {
	network string
	port    uint16
	size    int // of the datagram
	rule    string
	error   map[topology.Family]error
}

var connectionRefused = map[topology.Family]error{topology.IPv4: unix.ECONNREFUSED, topology.IPv6: unix.ECONNREFUSED}

var refusals = []refusal{
	{"tcp", closedPort, 0, "", connectionRefused},
	{"tcp", 81, 0, "tcp dport 81 reject with tcp reset", connectionRefused},
	{"tcp", 82, 0, "tcp dport 82 reject with icmpx port-unreachable", connectionRefused},
	{"tcp", 83, 0, "tcp dport 83 reject with icmpx admin-prohibited",
		map[topology.Family]error{topology.IPv4: unix.EHOSTUNREACH, topology.IPv6: unix.EACCES}},
	{"udp", closedPort, 10, "", connectionRefused},
	{"udp", closedPort, largeDatagram, "", connectionRefused}, // which comes in fragments
	{"udp", 84, 10, "udp dport 84 reject with icmpx port-unreachable", connectionRefused},
}

// knock connects, and for UDP asks, and returns what the client learns.
func (r refusal) knock(ctx context.Context, client *topology.Host, to netip.Addr) error {
	conn, err := client.Dial(ctx, r.network, netip.AddrPortFrom(to, r.port).String())
	if err != nil {
		return err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(0, 1)) })
	defer stop()
	if _, err := conn.Write(make([]byte, r.size)); err != nil {
		return err
	}
	_, err = conn.Read(make([]byte, 100))
	return err
}

// want has the client knock at the server's eth1. What refuses it leaves by eth1, and the client learns at once; or it
// leaves by eth0, and gets lost.
func (r refusal) want(t *testing.T, n *topology.TwoNIC, f topology.Family, answer topology.Filter, eth1 bool) {
	t.Helper()
	what := fmt.Sprintf("what refuses %s to port %d, %d bytes, %s", r.network, r.port, r.size, f)
	wires := wire.Tap(t, n.Server)
	ctx, cancel := context.WithCancel(await.Within(t, await.AnswerTime))
	defer cancel()
	knocked := make(chan error, 1)
	go func() { knocked <- r.knock(ctx, n.Client, n.Server.Eth1.Address(f)) }()
	waitLeft(t, wires, what, answer)
	if !eth1 {
		defer time.AfterFunc(await.SilenceTime, cancel).Stop()
	}
	if err := <-knocked; errors.Is(err, r.error[f]) != eth1 {
		t.Errorf("%s: %v, by eth1: %t", what, err, eth1)
	}
	wires.Want(eth1, what, answer)
}

// TestErrors has a server answer with resets and ICMP errors: each leaves by the NIC of the packet that it
// is about, and is counted; without replypath, and in mode observe, by the routed one. Errors about what starts no flow go
// as routed. What arrives of errors reaches its socket, and changes no flow. What errors may quote besides is in package bpf.
func TestErrors(t *testing.T) {
	n := traffic.NewTwoNIC(t, topology.TwoNICOptions{Policy: topology.StrictSource})
	for _, h := range []*topology.Host{n.Server.Host, n.Client, n.Replication.Host} {
		promptErrors(t, h)
	}
	rules := "table inet filter { chain input { type filter hook input priority filter\n"
	for _, r := range refusals {
		rules += r.rule + "\n"
	}
	host.Nft(t, n.Server.Host, rules+"}; }")
	refuse := func(t *testing.T, eth1 bool) {
		for _, f := range traffic.Families {
			for _, r := range refusals {
				r.want(t, n, f, topology.All(topology.From(n.Server.Eth1.Address(f)), topology.To(n.ClientEth0.Address(f))), eth1)
			}
		}
	}
	provoke(t, n, false, portUnreachable, protocolUnreachable)
	refuse(t, false)
	loseAnswers(t, n)

	p, _ := product.StartOn(t, n.Server.Host, "--observe", "--config", product.WriteConfig(t, "related: false\n")) // errors of nobody's go as routed
	before := countedBy(p)
	wantCounted(t, p, before, provoke(t, n, false, portUnreachable), false)

	p.Expect(0, "mode", "enforce")
	t.Run("answered", func(t *testing.T) {
		before := countedBy(p)
		wantCounted(t, p, before, provoke(t, n, true, portUnreachable), true)
	})
	t.Run("as routed", func(t *testing.T) {
		before := countedBy(p)
		provoke(t, n, false, protocolUnreachable)
		wantCounted(t, p, before, nil, true)
	})
	t.Run("refused", func(t *testing.T) { refuse(t, true) })
	for _, f := range traffic.Families {
		t.Run("arriving/"+f.String(), func(t *testing.T) { testErrorsArrive(t, n, p.In(t), f) })
	}
	wantNoMoves(t, p)
}

// loseAnswers has a server's answers leave by eth0, where they get lost.
func loseAnswers(t *testing.T, n *topology.TwoNIC) {
	t.Helper()
	for _, f := range traffic.Families {
		wires, dropped := wire.Tap(t, n.Server), await.Must1[uint64](t)(n.Production.Drops())
		d := askDatagrams(t, n.ClientEth0, n.Server.Eth1, f)
		await.Must(t, d.client.Close())
		d.send(t, 100)
		answers := topology.All(topology.UDP, topology.From(n.Server.Eth1.Address(f)))
		wait(t, wires.Eth0, answers)
		wires.WantEth0("without replypath", answers)
		await.Becomes(t, "the answer is dropped", true, func() bool { return await.Must1[uint64](t)(n.Production.Drops()) != dropped })
	}
}

// testErrorsArrive has a server's answers end up nowhere, by the corrected way: what the client says of it, and a router
// on the way, reaches the socket that sent them, and moves nothing.
func testErrorsArrive(t *testing.T, n *topology.TwoNIC, p *product.Product, f topology.Family) {
	wires := wire.Tap(t, n.Server)
	wantRead := func(d *datagrams, what string, want error) {
		t.Helper()
		if _, err := d.server.Read(make([]byte, 100)); !errors.Is(err, want) {
			t.Errorf("%s: read %v", what, err)
		}
	}
	refused := askDatagrams(t, n.ClientEth0, n.Server.Eth1, f)
	lost := askDatagrams(t, n.ClientEth0, n.Server.Eth1, f)
	wantErrors(t, lost.server, f)
	before := ways(p)
	await.Must(t, refused.client.Close())
	refused.send(t, 100)
	wantRead(refused, "the client has closed its socket", unix.ECONNREFUSED)
	route := "unreachable " + n.ClientEth0.Address(f).String()
	host.Shell(t, n.Replication.Host, "ip route add "+route)
	lost.send(t, 100)
	unreachable := map[topology.Family]error{topology.IPv4: unix.EHOSTUNREACH, topology.IPv6: unix.ENETUNREACH}
	wantRead(lost, "the client cannot be reached", unreachable[f])
	host.Shell(t, n.Replication.Host, "ip route del "+route)
	lost.send(t, 100)
	lost.wantArrival(t, 100)
	wires.WantEth1("the answers", topology.All(topology.UDP, topology.From(n.Server.Eth1.Address(f))))
	await.Same(t, "flows", before, ways(p))
}

// wantErrors has a UDP socket learn of errors that end no connection as well.
func wantErrors(t *testing.T, conn net.Conn, f topology.Family) {
	t.Helper()
	if f == topology.IPv4 {
		setOption(t, conn, unix.IPPROTO_IP, unix.IP_RECVERR, 1)
	} else {
		setOption(t, conn, unix.IPPROTO_IPV6, unix.IPV6_RECVERR, 1)
	}
}

// setOption sets an option of a socket.
func setOption(t *testing.T, conn net.Conn, level, name, value int) {
	t.Helper()
	raw := await.Must1[syscall.RawConn](t)(conn.(syscall.Conn).SyscallConn())
	var err error
	await.Must(t, raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), level, name, value) }))
	await.Must(t, err)
}

// ways tells where replypath sends the replies of each flow.
func ways(p *product.Product) map[string]string {
	all := make(map[string]string)
	for _, flow := range p.Flows() {
		all[flow.String()] = fmt.Sprintf("%s, by %s to %s", flow.State, product.OrEmpty(flow.Interface), product.OrEmpty(flow.NextHopMAC))
	}
	return all
}

// wantNoMoves wants that nothing has moved, nor tried to.
func wantNoMoves(t *testing.T, p *product.Product) {
	t.Helper()
	m := p.Metrics()
	await.Same(t, "moves", 0, m.Sum("replypath_flow_moves_total")+m.Sum("replypath_flow_moves_refused_total"))
}
