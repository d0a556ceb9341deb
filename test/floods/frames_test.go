// SPDX-License-Identifier: Apache-2.0

package floods

import (
	"encoding/binary"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"replypath/test/topology"
)

// Networks for tests of devices (RFC 2544, RFC 5180): where floods come from.
var strangers = map[topology.Family]netip.Prefix{
	topology.IPv4: netip.MustParsePrefix("198.18.0.0/15"),
	topology.IPv6: netip.MustParsePrefix("2001:2::/48"),
}

const (
	// strangersBits is how many addresses there are: what a /15 has.
	strangersBits = 17
	firstPort     = 1024
	portCount     = 60_000
)

// stranger is the address and port of a number, another for each.
func stranger(f topology.Family, number int) netip.AddrPort {
	bytes := strangers[f].Addr().AsSlice()
	last := bytes[len(bytes)-4:]
	// An odd factor only changes the order.
	low := uint32(number) * 2654435761 % (1 << strangersBits)
	binary.BigEndian.PutUint32(last, binary.BigEndian.Uint32(last)|low)
	address, _ := netip.AddrFromSlice(bytes)
	return netip.AddrPortFrom(address, uint16(firstPort+number>>strangersBits%portCount))
}

// headers are those of one frame after the other.
type headers struct {
	ethernet layers.Ethernet
	v4       layers.IPv4
	v6       layers.IPv6
}

func newHeaders(f topology.Family, from, to net.HardwareAddr, protocol layers.IPProtocol) *headers {
	h := &headers{
		ethernet: layers.Ethernet{SrcMAC: from, DstMAC: to, EthernetType: layers.EthernetTypeIPv4},
		v4:       layers.IPv4{Version: 4, TTL: 64, Protocol: protocol},
		v6:       layers.IPv6{Version: 6, HopLimit: 64, NextHeader: protocol},
	}
	if f == topology.IPv6 {
		h.ethernet.EthernetType = layers.EthernetTypeIPv6
	}
	return h
}

// above are a transport header and a payload with the headers for a packet between two addresses.
func (h *headers) above(
	from, to netip.Addr, transport gopacket.SerializableLayer, payload int,
) []gopacket.SerializableLayer {
	var ip interface {
		gopacket.SerializableLayer
		gopacket.NetworkLayer
	} = &h.v4
	if from.Is6() {
		h.v6.SrcIP, h.v6.DstIP = from.AsSlice(), to.AsSlice()
		ip = &h.v6
	} else {
		h.v4.SrcIP, h.v4.DstIP = from.AsSlice(), to.AsSlice()
	}
	if summed, ok := transport.(interface {
		SetNetworkLayerForChecksum(gopacket.NetworkLayer) error
	}); ok {
		_ = summed.SetNetworkLayerForChecksum(ip)
	}
	return []gopacket.SerializableLayer{&h.ethernet, ip, transport, gopacket.Payload(make([]byte, payload))}
}

// frames makes the frames of a flood by their number.
type frames func(number int) []gopacket.SerializableLayer

// segments are TCP segments from strangers to some ports in turn.
func segments(v *victim, ports []uint16, flags layers.TCP) frames {
	h := newHeaders(v.family, v.n.Server.Eth1.Peer().MAC, v.n.Server.Eth1.MAC, layers.IPProtocolTCP)
	tcp := flags
	tcp.Window = 1000
	return func(number int) []gopacket.SerializableLayer {
		from := stranger(v.family, number)
		tcp.SrcPort, tcp.DstPort = layers.TCPPort(from.Port()), layers.TCPPort(ports[number%len(ports)])
		tcp.Seq = uint32(number)
		return h.above(from.Addr(), v.asked, &tcp, 0)
	}
}

// datagrams are UDP datagrams from strangers to a port.
func datagrams(v *victim, port uint16) frames {
	h := newHeaders(v.family, v.n.Server.Eth1.Peer().MAC, v.n.Server.Eth1.MAC, layers.IPProtocolUDP)
	return func(number int) []gopacket.SerializableLayer {
		from := stranger(v.family, number)
		return h.above(from.Addr(), v.asked,
			&layers.UDP{SrcPort: layers.UDPPort(from.Port()), DstPort: layers.UDPPort(port)}, 8)
	}
}

// routed are datagrams from strangers whose routing header, of a kind that nobody knows (RFC 4727,
// 3.4), names a router to come: the kernel answers some of them with an error.
func routed(v *victim) frames {
	h := newHeaders(v.family, v.n.Server.Eth1.Peer().MAC, v.n.Server.Eth1.MAC, layers.IPProtocolIPv6Routing)
	header := gopacket.Payload{byte(layers.IPProtocolUDP), 0, 253, 1, 0, 0, 0, 0}
	return func(number int) []gopacket.SerializableLayer {
		from := stranger(v.family, number)
		all := h.above(from.Addr(), v.asked, &layers.UDP{SrcPort: layers.UDPPort(from.Port()), DstPort: floodPort}, 8)
		return slices.Insert(all, 2, gopacket.SerializableLayer(header))
	}
}

// pings are echo requests from strangers.
func pings(v *victim) frames {
	from, to := v.n.Server.Eth1.Peer().MAC, v.n.Server.Eth1.MAC
	if v.family == topology.IPv4 {
		h := newHeaders(v.family, from, to, layers.IPProtocolICMPv4)
		echo := &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(layers.ICMPv4TypeEchoRequest, 0)}
		return func(number int) []gopacket.SerializableLayer {
			who := stranger(v.family, number)
			echo.Id = who.Port()
			return h.above(who.Addr(), v.asked, echo, 8)
		}
	}
	h := newHeaders(v.family, from, to, layers.IPProtocolICMPv6)
	icmp := &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(layers.ICMPv6TypeEchoRequest, 0)}
	return func(number int) []gopacket.SerializableLayer {
		who := stranger(v.family, number)
		all := h.above(who.Addr(), v.asked, icmp, 8)
		return append(all[:3:3], &layers.ICMPv6Echo{Identifier: who.Port()}, all[3])
	}
}

// spoofs are the ends of live connections, as somebody would send them who sees nothing but addresses and ports: a FIN
// and a RST in turn, of one connection after the other. Sequence numbers are random but for what would be a lucky hit,
// which the kernel itself takes for genuine (RFC 5961, 3.2).
func spoofs(v *victim, nic *topology.Interface, mac net.HardwareAddr) frames {
	h := newHeaders(v.family, mac, nic.MAC, layers.IPProtocolTCP)
	return func(number int) []gopacket.SerializableLayer {
		c := v.connections[number/2%len(v.connections)]
		tcp := &layers.TCP{
			SrcPort: layers.TCPPort(c.peer.Port()), DstPort: layers.TCPPort(v.port), Window: 1000,
			// All questions have messageSize bytes: no sequence number that is expected has this remainder.
			Seq: rand.Uint32()/messageSize*messageSize + (c.peerStart+messageSize/2)%messageSize,
		}
		if number%2 == 0 {
			tcp.FIN, tcp.ACK = true, true
			tcp.Ack = c.ownStart + 1<<31 + rand.Uint32N(1<<30) // was never sent
		} else {
			tcp.RST = true
		}
		return h.above(c.peer.Addr(), v.asked, tcp, 0)
	}
}
