// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"replypath/test/await"
	"replypath/test/host"
	"replypath/test/product"
	"replypath/test/topology"
	"replypath/test/traffic"
	"replypath/test/wire"
)

// resetOfFilter has a firewall answer a forged segment of a live connection with a RST, as rules for ct state invalid do:
// minutes later the server still speaks by eth1.
func (c corners) resetOfFilter(t *testing.T, f topology.Family) {
	host.Nft(t, c.Server.Host, `table inet invalid { chain input { type filter hook input priority filter
		tcp window 4711 reject with tcp reset
	}
	}`)
	defer host.Shell(t, c.Server.Host, "nft delete table inet invalid")
	p := c.connected(t, f)
	client := netip.MustParseAddrPort(p.client.LocalAddr().String())
	c.wantEth1(t, "the RST of the filter", p, func() {
		exits := wire.TapAll(t, c.eth1.nics...)
		traffic.NewInjector(t, c.Server.Eth1.Peer()).Send(segmentFrame(c.Server.Eth1.Peer().MAC, c.Server.Eth1.MAC,
			client.Addr(), c.Server.Eth1.Address(f), &layers.TCP{
				SrcPort: layers.TCPPort(client.Port()), DstPort: layers.TCPPort(p.port()), ACK: true, Seq: 4711, Ack: 4711, Window: 4711,
			})...)
		wait(t, exits.At(c.Server.Eth1), topology.All(p.segments, topology.Flags(topology.RST, topology.RST)))
	})
	c.p.In(t).Age(200 * time.Second)
	c.wantEth1(t, "what the server says", p, func() { push(t, p.server, p.client) })
}

// peerAway has the server close a connection whose client cannot be reached for minutes: its FIN leaves by eth1 each time
// that it is sent again, until it is answered.
func (c corners) peerAway(t *testing.T, f topology.Family) {
	p := c.connected(t, f)
	host.Nft(t, c.Core.Host, fmt.Sprintf(`table inet away { chain forward { type filter hook forward priority filter
		tcp dport %d drop
	}
	}`, p.port()))
	await.Must(t, p.server.CloseWrite())
	for range 4 {
		c.wantEth1(t, "the FIN", p, func() {
			wait(t, wire.TapAll(t, c.eth1.nics...).At(c.Server.Eth1), topology.All(p.segments, topology.Flags(topology.FIN, topology.FIN)))
		})
		c.p.In(t).Age(100 * time.Second)
	}
	host.Shell(t, c.Core.Host, "nft delete table inet away")
	c.wantEth1(t, "the end", p, func() { c.end(t, p, p.server, p.client) })
}

// TestLists has eth1 hand frames up in lists, as NICs do: the programs see a whole list before its first frame is with its
// socket. Questions of every kind come so, and the last segment of a client together with a RST: the connection is over.
func TestLists(t *testing.T) {
	n := traffic.NewTwoNIC(t, topology.TwoNICOptions{Policy: topology.StrictSource, Offloads: topology.WireExact})
	await.Must(t, n.Server.Eth1.ReceiveInLists(5*time.Millisecond))
	c := corners{n, product.On(t, n.Server.Host), exitBy(n.Server, n.Server.Eth1)}
	c.start(t)
	traffic.EachQuestion(t, "answers", func(t *testing.T, f topology.Family, kind traffic.Kind) {
		conversation := traffic.NewConversation(t, kind, n.ClientEth0, n.Server.Eth1.Address(f))
		c.eth1.wantAnswers(t, conversation, conversation.Answers())
	})
	for _, f := range traffic.Families {
		for name, data := range map[string]string{"data and a RST": "data", "the last ACK and a RST": ""} {
			t.Run(name+"/"+f.String(), func(t *testing.T) { c.resetInList(t, f, data) })
		}
	}
}

// resetInList opens a connection, frame by frame, and sends its last segment together with a RST: with data that is after
// the handshake, without it ends that.
func (c corners) resetInList(t *testing.T, f topology.Family, data string) {
	l := c.listen(t, f, dialect{})
	server := netip.MustParseAddrPort(l.Addr().String())
	client := netip.AddrPortFrom(addresses("10.9.0.77", "2001:db8:9::77")[f], 4000+uint16(len(data)))
	segments := topology.All(topology.TCP, topology.FromPort(server.Port()), topology.ToPort(client.Port()))
	exits := wire.TapAll(t, c.eth1.nics...)
	injector := traffic.NewInjector(t, c.Server.Eth1.Peer())
	send := func(tcp layers.TCP, payload string) {
		tcp.SrcPort, tcp.DstPort, tcp.Window = layers.TCPPort(client.Port()), layers.TCPPort(server.Port()), 1000
		frame := segmentFrame(c.Server.Eth1.Peer().MAC, c.Server.Eth1.MAC, client.Addr(), server.Addr(), &tcp)
		frame[len(frame)-1] = gopacket.Payload(payload)
		injector.Send(frame...)
	}
	send(layers.TCP{SYN: true, Seq: 1000}, "")
	answer := wait(t, exits.At(c.Server.Eth1), segments).Packet().Layer(layers.LayerTypeTCP).(*layers.TCP)
	ack := layers.TCP{ACK: true, Seq: 1001, Ack: answer.Seq + 1}
	if data != "" {
		send(ack, "")
		defer await.Must1[net.Conn](t)(l.Accept()).Close()
	}
	send(ack, data)
	send(layers.TCP{RST: true, Seq: ack.Seq + uint32(len(data))}, "")
	await.Eventually(t, "the connection is over", func() error {
		flows := c.p.Flows("--peer", client.Addr().String(), "--protocol", "tcp")
		for _, flow := range flows {
			if flow.PeerPort == client.Port() && flow.Closing {
				return nil
			}
		}
		return fmt.Errorf("flows: %+v", flows)
	})
}
