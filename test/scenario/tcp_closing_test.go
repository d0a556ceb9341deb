// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/gopacket/gopacket/layers"

	"replypath/test/await"
	"replypath/test/host"
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
