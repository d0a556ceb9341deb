// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"replypath/test/await"
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
	name string
	// error is what it is answered with.
	error map[topology.Family]kind
	// packet is its IP header, with what has to be changed in it, and what follows.
	// The mark stands in it where every error quotes it.
	packet func(ip gopacket.NetworkLayer, mark gopacket.Payload) packet
}

// kinds are those of both families.
func kinds(v4, v6 kind) map[topology.Family]kind {
	return map[topology.Family]kind{topology.IPv4: v4, topology.IPv6: v6}
}

// Numbers that no header of the libraries in use has.
const (
	experimental  = 253  // a protocol (RFC 3692, 2.1)
	unknownOption = 0x9e // of IPv6: to be answered with an error (RFC 8200, 4.2; RFC 4727, 3.2)
)

// answeredWithErrors are packets to a host that it answers with errors: port unreachable, parameter problem. What else
// errors quote is in package bpf.
var answeredWithErrors = []provocation{
	{"port", kinds(kind{3, 3}, kind{1, 4}), func(ip gopacket.NetworkLayer, mark gopacket.Payload) packet {
		return packet{withProtocol(ip, layers.IPProtocolUDP), udpTo(ip, closedPort), mark}
	}},
	{"option before tcp", kinds(kind{12, 0}, kind{4, 2}), func(ip gopacket.NetworkLayer, mark gopacket.Payload) packet {
		return badOption(ip, layers.IPProtocolTCP, tcpTo(ip, layers.TCP{SYN: true}), mark)
	}},
}

// answeredAsRouted is one whose error is about no protocol that is listed.
var answeredAsRouted = []provocation{
	{"protocol", kinds(kind{3, 2}, kind{4, 1}), func(ip gopacket.NetworkLayer, mark gopacket.Payload) packet {
		return packet{withProtocol(ip, experimental), mark}
	}},
}

// withProtocol says what follows an IP header.
func withProtocol(ip gopacket.NetworkLayer, protocol layers.IPProtocol) gopacket.SerializableLayer {
	switch header := ip.(type) {
	case *layers.IPv4:
		header.Protocol = protocol
		return header
	case *layers.IPv6:
		header.NextHeader = protocol
		return header
	}
	panic("no IP header")
}

// udpTo is the header of a datagram.
func udpTo(ip gopacket.NetworkLayer, port uint16) *layers.UDP {
	udp := &layers.UDP{SrcPort: 4000, DstPort: layers.UDPPort(port)}
	_ = udp.SetNetworkLayerForChecksum(ip)
	return udp
}

// tcpTo is the header of a segment to a port that nobody listens at.
func tcpTo(ip gopacket.NetworkLayer, tcp layers.TCP) *layers.TCP {
	tcp.SrcPort, tcp.DstPort, tcp.Seq, tcp.Ack, tcp.Window = 4000, closedPort, 1000, 2000, 1000
	_ = tcp.SetNetworkLayerForChecksum(ip)
	return &tcp
}

// badOption has an IPv4 option (record route) that is shorter than it can be, or an
// IPv6 destination option that nobody knows.
func badOption(ip gopacket.NetworkLayer, protocol layers.IPProtocol, rest ...gopacket.SerializableLayer) packet {
	if header, ok := ip.(*layers.IPv4); ok {
		header.Protocol = protocol
		header.Options = []layers.IPv4Option{{OptionType: 7, OptionLength: 2}}
		return append(packet{header}, rest...)
	}
	option := gopacket.Payload{byte(protocol), 0, unknownOption, 4, 0, 0, 0, 0}
	return append(packet{withProtocol(ip, layers.IPProtocolIPv6Destination), option}, rest...)
}

// mark is what a provocation is known by, wherever it is quoted.
func (p provocation) mark(f topology.Family) gopacket.Payload {
	mark := make(gopacket.Payload, 40)
	copy(mark, fmt.Sprintf("%s/%s", f, p.name))
	return mark
}

// frame puts the provocation into a frame.
func (p provocation) frame(fromMAC, toMAC net.HardwareAddr, from, to netip.Addr) packet {
	ethernet, ip := ipHeaders(fromMAC, toMAC, from, to, 0)
	return append(packet{ethernet}, p.packet(ip.(gopacket.NetworkLayer), p.mark(topology.FamilyOf(to)))...)
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

// provoke has what is behind a server's eth1 send packets there, and wants the error about each of them by one of the
// server's NICs. It returns all of them.
func provoke(t *testing.T, server *topology.Server, from, to map[topology.Family]netip.Addr, provocations []provocation,
	eth1 bool) (frames []*topology.Frame) {
	t.Helper()
	wires := wire.Tap(t, server)
	at := server.Eth1.Peer()
	injector := traffic.NewInjector(t, at)
	answers := make(map[string]topology.Filter)
	for _, f := range traffic.Families {
		for _, p := range provocations {
			injector.Send(p.frame(at.MAC, server.Eth1.MAC, from[f], to[f])...)
			answers[fmt.Sprintf("the error about %s, %s", p.name, f)] = p.answer(f)
		}
	}
	for what, answer := range answers {
		waitLeft(t, wires, what, answer)
		frames = append(frames, wires.Want(eth1, what, answer)...)
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
