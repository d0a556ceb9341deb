// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"encoding/binary"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"replypath/test/await"
	"replypath/test/product"
	"replypath/test/topology"
	"replypath/test/traffic"
	"replypath/test/wire"
)

// ipv4 is that family alone.
var ipv4 = traffic.Families[:1]

// addresses are one of each family.
func addresses(v4, v6 string) map[topology.Family]netip.Addr {
	return map[topology.Family]netip.Addr{topology.IPv4: netip.MustParseAddr(v4), topology.IPv6: netip.MustParseAddr(v6)}
}

// addressesOf are those of an interface.
func addressesOf(i *topology.Interface) map[topology.Family]netip.Addr {
	return map[topology.Family]netip.Addr{topology.IPv4: i.Address(topology.IPv4), topology.IPv6: i.Address(topology.IPv6)}
}

// linkLocalOf returns the link-local address of an interface.
func linkLocalOf(t *testing.T, i *topology.Interface) netip.Addr {
	t.Helper()
	for _, address := range await.Must1[*topology.Interface](t)(i.Host.Interface(i.Name)).Addresses {
		if address.Addr().IsLinkLocalUnicast() {
			return address.Addr()
		}
	}
	t.Fatalf("%s has no link-local address", i.Name)
	return netip.Addr{}
}

// reload gives a daemon another configuration.
func reload(t *testing.T, d *product.Daemon, config, text string) {
	t.Helper()
	await.Must(t, os.WriteFile(config, []byte(text), 0o600))
	d.Reload()
}

// wantAnswers asks for more and more, and wants every answer to leave the server
// by eth1, or by eth0, with the MAC of its gateway there.
func wantAnswers(t *testing.T, server *topology.Server, c *traffic.Conversation, eth1 bool) {
	t.Helper()
	wires := wire.Tap(t, server)
	traffic.AskSizes(t, c)
	by := wires.Eth0
	if eth1 {
		by = wires.Eth1
	}
	wire.End(t, c, by, c.Answers())
	wires.Want(eth1, c.String(), c.Answers())
}

// wantLost asks, and wants the answer to leave by eth0 and never to arrive.
func wantLost(t *testing.T, server *topology.Server, c *traffic.Conversation, client *topology.Interface) {
	t.Helper()
	wires, arrived := wire.Tap(t, server), wire.Capture(t, client)
	if err := wire.AskInVain(t, c, wires.Eth0); err == nil {
		t.Error("the question was answered, although its answer came from the wrong side")
	}
	wires.WantEth0("an answer that gets lost", c.Answers())
	if wires.Eth1.Count(topology.All(c.Questions(), topology.Going(topology.Sent))) == 0 {
		t.Error("no question reached the server by eth1")
	}
	if n := arrived.Count(c.Answers()); n != 0 {
		t.Errorf("%d answers reached the client", n)
	}
}

// exit is how answers leave a server: by one of its NICs, to a MAC.
type exit struct {
	nics []*topology.Interface // all of the server's that answers could leave by
	by   *topology.Interface
	to   net.HardwareAddr
}

// exitBy is the exit by one of a server's NICs to what its cable leads to.
func exitBy(server *topology.Server, by *topology.Interface) exit {
	return exit{[]*topology.Interface{server.Eth0, server.Eth1}, by, by.Peer().MAC}
}

// wantAnswers asks a few questions and wants all of the answers, and every one of them by this exit. Answers are seen
// as they leave the server, which may be behind a translation.
func (e exit) wantAnswers(t *testing.T, c *traffic.Conversation, answers topology.Filter) {
	t.Helper()
	exits := wire.TapAll(t, e.nics...)
	traffic.AskSizes(t, c)
	wire.End(t, c, exits.At(e.by), answers)
	e.want(exits, c.String(), answers)
}

// wantQuestions has the server ask somebody, and wants all of its questions by this exit.
func (e exit) wantQuestions(t *testing.T, c *traffic.Conversation) {
	t.Helper()
	exits := wire.TapAll(t, e.nics...)
	traffic.AskSizes(t, c)
	e.want(exits, "what the server opened: "+c.String(), c.Questions())
}

// askBy asks once and wants the answer by this exit.
func (e exit) askBy(t *testing.T, c *traffic.Conversation) []*topology.Frame {
	t.Helper()
	exits := wire.TapAll(t, e.nics...)
	traffic.Ask(t, c)
	return e.want(exits, c.String(), c.Answers())
}

// want wants frames, and every one of them by this exit. It returns them.
func (e exit) want(seen *wire.Exits, what string, frames topology.Filter) []*topology.Frame {
	return seen.Want(what, frames, e.by, e.to)
}

// wantLost asks in vain: the answers leave by this exit, but never come to who asked.
func (e exit) wantLost(t *testing.T, c *traffic.Conversation, answers topology.Filter) {
	t.Helper()
	exits := wire.TapAll(t, e.nics...)
	if err := wire.AskUntilLost(t, c, exits.At(e.by), answers); err == nil {
		t.Errorf("%s was answered, although its answer left the wrong way", c)
	}
	e.want(exits, c.String(), answers)
}

// wantNoAnswer asks in vain: the question comes in by one of the server's NICs, the
// first, and is dropped there, so that no answer leaves by any.
func wantNoAnswer(t *testing.T, c *traffic.Conversation, nics ...*topology.Interface) {
	t.Helper()
	exits := wire.TapAll(t, nics...)
	if err := wire.AskUntilLost(t, c, exits.At(nics[0]), c.Questions()); err == nil {
		t.Errorf("%s was answered", c)
	}
	for _, nic := range nics {
		if left := exits.Left(nic, c.Answers()); len(left) > 0 {
			t.Errorf("%s: by %s left %s", c, nic.Name, wire.Describe(left))
		}
	}
}

// ipHeaders returns the Ethernet and IP headers of a packet.
func ipHeaders(fromMAC, toMAC net.HardwareAddr, from, to netip.Addr, protocol layers.IPProtocol) (ethernet, ip gopacket.SerializableLayer) {
	header := &layers.Ethernet{SrcMAC: fromMAC, DstMAC: toMAC, EthernetType: layers.EthernetTypeIPv4}
	if from.Is4() {
		return header, &layers.IPv4{
			Version: 4, TTL: 64, Id: 4711, Protocol: protocol, SrcIP: from.AsSlice(), DstIP: to.AsSlice(),
		}
	}
	header.EthernetType = layers.EthernetTypeIPv6
	return header, &layers.IPv6{
		Version: 6, HopLimit: 64, NextHeader: protocol, SrcIP: from.AsSlice(), DstIP: to.AsSlice(),
	}
}

// segmentFrame puts a TCP segment into a frame.
func segmentFrame(fromMAC, toMAC net.HardwareAddr, from, to netip.Addr, tcp *layers.TCP) []gopacket.SerializableLayer {
	ethernet, ip := ipHeaders(fromMAC, toMAC, from, to, layers.IPProtocolTCP)
	_ = tcp.SetNetworkLayerForChecksum(ip.(gopacket.NetworkLayer))
	return []gopacket.SerializableLayer{ethernet, ip, tcp, gopacket.Payload("")}
}

// icmpFrame puts an ICMP message into a frame. What is behind its checksum begins with four bytes of its header.
func icmpFrame(fromMAC, toMAC net.HardwareAddr, from, to netip.Addr, k kind, rest []byte) []gopacket.SerializableLayer {
	if from.Is4() {
		ethernet, ip := ipHeaders(fromMAC, toMAC, from, to, layers.IPProtocolICMPv4)
		return []gopacket.SerializableLayer{ethernet, ip, &layers.ICMPv4{
			TypeCode: layers.CreateICMPv4TypeCode(k.kind, k.code),
			Id:       binary.BigEndian.Uint16(rest), Seq: binary.BigEndian.Uint16(rest[2:]),
		}, gopacket.Payload(rest[4:])}
	}
	ethernet, ip := ipHeaders(fromMAC, toMAC, from, to, layers.IPProtocolICMPv6)
	icmp := &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(k.kind, k.code)}
	_ = icmp.SetNetworkLayerForChecksum(ip.(gopacket.NetworkLayer))
	return []gopacket.SerializableLayer{ethernet, ip, icmp, gopacket.Payload(rest)}
}

// askDatagram asks an echo server by a connected UDP socket.
func askDatagram(t *testing.T, conn net.Conn) {
	t.Helper()
	await.Must(t, conn.SetDeadline(time.Now().Add(await.AnswerTime)))
	await.Must1[int](t)(conn.Write([]byte("question")))
	await.Must1[int](t)(conn.Read(make([]byte, 100)))
}
