// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"replypath/bpf"
	"replypath/bpf/internal/rig"
)

// network is one address family of the host under test: a peer behind routers, and the host's addresses on its two
// interfaces.
type network struct {
	name     string
	family   uint8
	peer     netip.Addr
	self     netip.Addr // on the replication interface
	other    netip.Addr // on the production interface
	stranger netip.Addr // neither the host's nor the peer's
}

var networks = []network{
	{
		name:     "ipv4",
		family:   4,
		peer:     netip.MustParseAddr("10.2.0.100"),
		self:     netip.MustParseAddr("10.4.0.100"),
		other:    netip.MustParseAddr("10.3.0.100"),
		stranger: netip.MustParseAddr("198.51.100.7"),
	},
	{
		name:     "ipv6",
		family:   6,
		peer:     netip.MustParseAddr("fd00:2::100"),
		self:     netip.MustParseAddr("fd00:4::100"),
		other:    netip.MustParseAddr("fd00:3::100"),
		stranger: netip.MustParseAddr("2001:db8::7"),
	},
}

// eachFamily runs a test for IPv4 and for IPv6, on empty maps.
func eachFamily(t *testing.T, f func(*testing.T, *bed, network)) {
	t.Helper()
	for _, n := range networks {
		t.Run(n.name, func(t *testing.T) { f(t, newBed(t, normal), n) })
	}
}

// Ports of the flow that the tests are about.
const (
	peerPort = 40000
	selfPort = 5432
)

type direction int

const (
	inbound  direction = iota // from the peer to the host
	outbound                  // from the host to the peer
)

type message interface {
	protocol(network) layers.IPProtocol
	layers(direction, network) []gopacket.SerializableLayer
}

// ports are a message's; 0 means the usual one.
type ports struct{ peer, self uint16 }

func (p ports) ends(d direction) (source, destination uint16) {
	if p.peer == 0 {
		p.peer = peerPort
	}
	if p.self == 0 {
		p.self = selfPort
	}
	if d == inbound {
		return p.peer, p.self
	}
	return p.self, p.peer
}

// tcp is a TCP segment; flags are letters of "FSRPA".
type tcp struct {
	ports
	flags    string
	seq, ack uint32
	options  []layers.TCPOption
	payload  int // bytes
}

// end is the sequence number after the segment; a FIN counts as one.
func (m tcp) end() uint32 {
	end := m.seq + uint32(m.payload)
	if strings.Contains(m.flags, "F") {
		end++
	}
	return end
}

func (tcp) protocol(network) layers.IPProtocol { return layers.IPProtocolTCP }

func (m tcp) layers(d direction, _ network) []gopacket.SerializableLayer {
	source, destination := m.ends(d)
	header := &layers.TCP{
		SrcPort: layers.TCPPort(source), DstPort: layers.TCPPort(destination),
		Seq: m.seq, Ack: m.ack, Window: 1024, Options: m.options,
		FIN: strings.Contains(m.flags, "F"),
		SYN: strings.Contains(m.flags, "S"),
		RST: strings.Contains(m.flags, "R"),
		PSH: strings.Contains(m.flags, "P"),
		ACK: strings.Contains(m.flags, "A"),
	}
	return []gopacket.SerializableLayer{header, filler(m.payload)}
}

type udp struct {
	ports
	payload int
}

func (udp) protocol(network) layers.IPProtocol { return layers.IPProtocolUDP }

func (m udp) layers(d direction, _ network) []gopacket.SerializableLayer {
	source, destination := m.ends(d)
	return []gopacket.SerializableLayer{
		&layers.UDP{SrcPort: layers.UDPPort(source), DstPort: layers.UDPPort(destination)}, filler(m.payload),
	}
}

type sctp struct {
	ports
	payload int
}

func (sctp) protocol(network) layers.IPProtocol { return layers.IPProtocolSCTP }

func (m sctp) layers(d direction, _ network) []gopacket.SerializableLayer {
	source, destination := m.ends(d)
	return []gopacket.SerializableLayer{
		&layers.SCTP{SrcPort: layers.SCTPPort(source), DstPort: layers.SCTPPort(destination), VerificationTag: 7},
		filler(m.payload),
	}
}

// echo is an echo request or reply; its identifier stands in for the peer's port.
type echo struct {
	reply   bool
	time    bool // a timestamp (IPv4)
	code    uint8
	payload int // beside the usual 8 bytes
}

const echoIdentifier = 0x5050

func (echo) protocol(n network) layers.IPProtocol { return icmp{}.protocol(n) }

func (m echo) layers(_ direction, n network) []gopacket.SerializableLayer {
	request, reply := uint8(layers.ICMPv4TypeEchoRequest), uint8(layers.ICMPv4TypeEchoReply)
	if m.time {
		request, reply = layers.ICMPv4TypeTimestampRequest, layers.ICMPv4TypeTimestampReply
	}
	if n.family == 6 {
		request, reply = layers.ICMPv6TypeEchoRequest, layers.ICMPv6TypeEchoReply
	}
	if m.reply {
		request = reply
	}
	return icmpLayers(n, request, m.code, m.payload)
}

type icmp struct{ kind, code uint8 }

func (icmp) protocol(n network) layers.IPProtocol {
	if n.family == 6 {
		return layers.IPProtocolICMPv6
	}
	return layers.IPProtocolICMPv4
}

func (m icmp) layers(_ direction, n network) []gopacket.SerializableLayer {
	return icmpLayers(n, m.kind, m.code, 0)
}

// icmpLayers are those of a message with an identifier and so many bytes beside the usual 8.
func icmpLayers(n network, kind, code uint8, payload int) []gopacket.SerializableLayer {
	if n.family == 4 {
		return []gopacket.SerializableLayer{&layers.ICMPv4{
			TypeCode: layers.CreateICMPv4TypeCode(kind, code),
			Id:       echoIdentifier,
			Seq:      1,
		}, filler(8 + payload)}
	}
	return []gopacket.SerializableLayer{
		&layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(kind, code)},
		&layers.ICMPv6Echo{Identifier: echoIdentifier, SeqNumber: 1},
		filler(8 + payload),
	}
}

type raw struct {
	number layers.IPProtocol
	bytes  []byte
}

func (m raw) protocol(network) layers.IPProtocol { return m.number }

func (m raw) layers(direction, network) []gopacket.SerializableLayer {
	return []gopacket.SerializableLayer{gopacket.Payload(m.bytes)}
}

func filler(size int) gopacket.Payload {
	payload := make([]byte, size)
	for i := range payload {
		payload[i] = byte(i)
	}
	return payload
}

type headers = rig.Headers

type edit func(*headers)

// source and destination replace an address.
func source(address netip.Addr) edit {
	return func(h *headers) {
		if h.V4 != nil {
			h.V4.SrcIP = address.AsSlice()
		} else {
			h.V6.SrcIP = address.AsSlice()
		}
	}
}

func destination(address netip.Addr) edit {
	return func(h *headers) {
		if h.V4 != nil {
			h.V4.DstIP = address.AsSlice()
		} else {
			h.V6.DstIP = address.AsSlice()
		}
	}
}

func sourceMAC(mac net.HardwareAddr) edit { return func(h *headers) { h.Ethernet.SrcMAC = mac } }

func destinationMAC(mac net.HardwareAddr) edit { return func(h *headers) { h.Ethernet.DstMAC = mac } }

func etherType(protocol layers.EthernetType) edit {
	return func(h *headers) { h.Ethernet.EthernetType = protocol }
}

// frame builds a frame between the host and the peer, as it passes by this interface: the other end of the wire is
// the interface's router.
func (n network) frame(d direction, via nic, m message, edits ...edit) []byte {
	h := rig.NewHeaders(via.router, via.MAC, n.peer, n.self, m.protocol(n))
	if d == outbound {
		h = rig.NewHeaders(via.MAC, via.router, n.self, n.peer, m.protocol(n))
	}
	for _, e := range edits {
		e(h)
	}
	return h.Frame(m.layers(d, n)...)
}

func (n network) in(via nic, m message, edits ...edit) []byte {
	return n.frame(inbound, via, m, edits...)
}

func (n network) out(via nic, m message, edits ...edit) []byte {
	return n.frame(outbound, via, m, edits...)
}

// tuple is the tuple of a message between the peer and the host.
func (n network) tuple(m message) bpf.DatapathTuple {
	var p ports
	switch m := m.(type) {
	case tcp:
		p = m.ports
	case udp:
		p = m.ports
	case sctp:
		p = m.ports
	case echo:
		return n.address(m, echoIdentifier, 0)
	default:
		return n.address(m, 0, 0)
	}
	peer, self := p.ends(inbound)
	return n.address(m, peer, self)
}

func (n network) address(m message, peerPort, selfPort uint16) bpf.DatapathTuple {
	return rig.Tuple(uint8(m.protocol(n)), netip.AddrPortFrom(n.peer, peerPort), netip.AddrPortFrom(n.self, selfPort))
}

// here and there are the ends of its flows.
func (n network) here() netip.AddrPort { return netip.AddrPortFrom(n.self, selfPort) }

func (n network) there() netip.AddrPort { return netip.AddrPortFrom(n.peer, peerPort) }

func (n network) from(peer netip.Addr) network {
	n.peer = peer
	return n
}

func mac(text string) net.HardwareAddr {
	address, err := net.ParseMAC(text)
	check(err)
	return address
}

func readdressed(frame []byte, to, from net.HardwareAddr) []byte {
	moved := append([]byte{}, frame...)
	copy(moved[0:], to)
	copy(moved[6:], from)
	return moved
}

const (
	ethernetSize = 14
	ipv4Size     = 20
	ipv6Size     = 40
)

func (n network) ipSize() int {
	if n.family == 4 {
		return ipv4Size
	}
	return ipv6Size
}

func check(err error) {
	if err != nil {
		panic(err)
	}
}
