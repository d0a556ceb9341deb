// SPDX-License-Identifier: Apache-2.0

package faults

import (
	"errors"
	"net"
	"net/netip"
	"slices"

	"github.com/gopacket/gopacket/layers"
	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"

	"replypath/test/await"
	"replypath/test/topology"
	"replypath/test/traffic"
	testwire "replypath/test/wire"
)

// discardPort is where nobody listens.
const discardPort = 9

// elsewhere are addresses that only a default route leads to, beside the client's.
var elsewhere = map[topology.Family]netip.Addr{
	topology.IPv4: netip.MustParseAddr("198.51.100.1"), topology.IPv6: netip.MustParseAddr("2001:db8:ffff::1"),
}

// unspecified are the addresses of sockets that leave theirs to the kernel.
var unspecified = map[topology.Family]netip.Addr{topology.IPv4: netip.IPv4Unspecified(), topology.IPv6: netip.IPv6Unspecified()}

// pings are the socket and the message of a ping.
var pings = map[topology.Family]struct {
	network  string
	protocol layers.IPProtocol
	echo     icmp.Type
}{
	topology.IPv4: {"ip4:icmp", layers.IPProtocolICMPv4, ipv4.ICMPTypeEcho},
	topology.IPv6: {"ip6:ipv6-icmp", layers.IPProtocolICMPv6, ipv6.ICMPTypeEchoRequest},
}

// sendUnasked has the host send what nobody asked for to the client, elsewhere and to eth0's gateway.
func (b *bed) sendUnasked() {
	b.Helper()
	b.sendUnaskedTo(b.clientAddress(), elsewhere[b.family], b.net.Server.Eth0.Peer().Address(b.family))
}

// sendUnaskedTo has the host send datagrams and pings, from the address that the kernel picks and from
// eth1's. It may be refused.
func (b *bed) sendUnaskedTo(targets ...netip.Addr) {
	b.Helper()
	ping := pings[b.family]
	echo := icmp.Message{Type: ping.echo, Body: &icmp.Echo{ID: 1, Seq: 1, Data: []byte("unasked")}}
	request := await.Must1[[]byte](b)(echo.Marshal(nil))
	for _, from := range []netip.Addr{unspecified[b.family], b.net.Server.Eth1.Address(b.family)} {
		ctx := await.Within(b, await.AnswerTime)
		datagrams := await.Must1[net.PacketConn](b)(b.net.Server.ListenPacket(ctx, "udp", netip.AddrPortFrom(from, 0).String()))
		echoes := await.Must1[net.PacketConn](b)(b.net.Server.ListenPacket(ctx, ping.network, from.String()))
		for _, to := range targets {
			_, _ = datagrams.WriteTo([]byte("unasked"), net.UDPAddrFromAddrPort(netip.AddrPortFrom(to, discardPort)))
			_, _ = echoes.WriteTo(request, &net.IPAddr{IP: to.AsSlice()})
		}
		await.Must(b, errors.Join(datagrams.Close(), echoes.Close()))
	}
}

// isKernels tells what the kernel itself sends by any device that is up, to the device's own network: no route leads it
// there. What asks for others is of a route that takes them for neighbours.
func (b *bed) isKernels(f *topology.Frame) bool {
	if arp, ok := f.Packet().Layer(layers.LayerTypeARP).(*layers.ARP); ok {
		return b.isOwn(arp.DstProtAddress)
	}
	if s, ok := f.Packet().Layer(layers.LayerTypeICMPv6NeighborSolicitation).(*layers.ICMPv6NeighborSolicitation); ok {
		return b.isOwn(s.TargetAddress)
	}
	return f.Protocol == layers.IPProtocolICMPv6 && slices.Contains([]uint8{layers.ICMPv6TypeNeighborAdvertisement,
		layers.ICMPv6TypeRouterSolicitation, layers.ICMPv6TypeMLDv2MulticastListenerReportMessageV2}, f.ICMPType)
}

// isOwn tells whether a target is of one of eth1's own networks, or of the link alone.
func (b *bed) isOwn(target []byte) bool {
	address, _ := netip.AddrFromSlice(target)
	return address.IsLinkLocalUnicast() ||
		slices.ContainsFunc(b.net.Server.Eth1.Addresses, func(own netip.Prefix) bool { return own.Contains(address) })
}

// leaks are the frames that left the server by eth1 and belong neither to a conversation that a client began by eth1
// nor to the kernel itself: what the host started.
func (b *bed) leaks(wire *topology.Capture) []*topology.Frame {
	b.Helper()
	isAnswer := func(f *topology.Frame) bool {
		return slices.ContainsFunc(b.asked, func(c *traffic.Conversation) bool { return c.Answers()(f) })
	}
	return slices.DeleteFunc(wire.Frames(topology.Going(topology.Received)), func(f *topology.Frame) bool { return isAnswer(f) || b.isKernels(f) })
}

// isRelated matches what goes from an address to a peer that is answered from that address.
func (b *bed) isRelated(frame *topology.Frame) bool {
	return slices.ContainsFunc(b.asked, func(c *traffic.Conversation) bool {
		return frame.Source == c.Self.Addr() && frame.Destination == c.Peer.Addr()
	})
}

// wantNoLeak wants nothing of what the host started to have left by eth1 but what is related to what it answers there.
func (b *bed) wantNoLeak(what string, wire *topology.Capture) {
	b.Helper()
	leaked := slices.DeleteFunc(b.leaks(wire), b.isRelated)
	if len(leaked) > 0 {
		b.Errorf("%s: of what the host started, by eth1 left %s", what, testwire.Describe(leaked))
	}
	b.Logf("%s: %d frames that the host started by eth1", what, len(leaked))
}
