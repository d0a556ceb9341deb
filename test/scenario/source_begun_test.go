// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"fmt"
	"net/netip"
	"testing"

	"replypath/test/product"
	"replypath/test/topology"
	"replypath/test/traffic"
	"replypath/test/wire"
)

// resolverPort is where the server's queries go.
const resolverPort = 5300

// TestSourceOfBegun has a server begin with a resolver by a socket that is bound to a port and no address. Then
// somebody sends in the resolver's name, by eth1, to the server's other address, so that a flow of these is there.
// What the server goes on to ask leaves as it did: from the address of eth0, by eth0.
func TestSourceOfBegun(t *testing.T) {
	n := traffic.NewTwoNIC(t, topology.TwoNICOptions{Policy: topology.AnySource})
	p := product.On(t, n.Server.Host)
	p.Start("--config", product.WriteConfig(t, "repair_udp_source: true\n"))
	p.WaitGrace()
	port := uint16(21_000)
	for _, f := range n.Families() {
		for _, when := range []string{"before the first answer", "afterwards"} {
			t.Run(fmt.Sprintf("%s/%s", f, when), func(t *testing.T) {
				port++
				q := newClientOf(t, n, netip.AddrPortFrom(n.ClientEth0.Address(f), resolverPort), netip.AddrPortFrom(n.Server.Eth0.Address(f), port))
				other := *q
				other.serverAt = netip.AddrPortFrom(n.Server.Eth1.Address(f), port)
				forge := func() {
					other.forge()
					other.waitRecorded(p)
				}
				q.serve(serverSocket{wildcard: true})
				wires := wire.Tap(t, n.Server)
				if when == "afterwards" {
					q.serverSpeaks()
					q.clientSpeaks()
					forge()
				} else {
					q.serverSpeaks()
					forge()
					q.clientSpeaks()
				}
				for range 3 {
					q.serverSpeaks()
					q.clientSpeaks()
					forge()
				}
				all := topology.All(topology.UDP, topology.FromPort(port), topology.ToPort(resolverPort))
				if left := wires.WantEth0("what the server begins", all); len(left) != 4 {
					t.Errorf("%d questions left", len(left))
				}
				left := wires.WantEth0("what the server begins, from the routed address", q.datagrams())
				got := repairs(p, f)
				if got != 0 {
					t.Errorf("%v repairs", got)
				}
				t.Logf("%d questions, all by eth0 from its own address, %v repairs", len(left), got)
			})
		}
	}
}
