// SPDX-License-Identifier: Apache-2.0

package devices

import (
	"strings"
	"testing"

	"replypath/test/host"
	"replypath/test/product"
	"replypath/test/server"
	"replypath/test/topology"
	"replypath/test/traffic"
	"replypath/test/wire"
)

// TestWithoutAddress has requests for eth0's address arrive by eth1, which has none, as load balancers of Kubernetes have
// nodes announce addresses. A macvlan stands for the NIC: it is managed without an address, as a NIC is, and a veth is not.
func TestWithoutAddress(t *testing.T) {
	server.EachMechanism(t, func(t *testing.T, mechanism string) {
		n := traffic.NewTwoNIC(t, topology.TwoNICOptions{Policy: topology.Stateful, Eth1: topology.MacvlanDevice})
		for _, f := range n.Families() {
			traffic.Serve(t, n.Server.Host, n.Server.Eth0.Address(f))
		}
		host.Shell(t, n.Server.Host, "ip -4 address flush dev eth1; ip -6 address flush dev eth1 scope global")
		linkLocal := strings.TrimSpace(host.Shell(t, n.Server.Host, "ip -6 -oneline address show dev eth1 scope link | awk '{ split($4, a, \"/\"); print a[1] }'"))
		host.Shell(t, n.Replication.Host, "ip route add 10.1.0.100/32 dev server; ip -6 route add 2001:db8:1::100/128 via "+linkLocal+" dev server")
		host.Shell(t, n.Core.Host, `
ip route add 10.1.0.100/32 $(ip route show 10.2.0.0/24 | grep -o 'via [^ ]* dev [^ ]*')
ip -6 route add 2001:db8:1::100/128 $(ip -6 route show 2001:db8:2::/64 | grep -o 'via [^ ]* dev [^ ]*')`)
		asked := func(kind traffic.Kind, f topology.Family) *traffic.Conversation {
			return traffic.NewConversation(t, kind, n.ClientEth0, n.Server.Eth0.Address(f))
		}
		traffic.EachQuestion(t, "without replypath", func(t *testing.T, f topology.Family, kind traffic.Kind) {
			if kind == traffic.UDP { // which the stateful router lets pass
				wire.WantBy(t, n.Server, asked(kind, f), false)
			} else {
				wire.WantLost(t, n.Server, asked(kind, f))
			}
		})
		p := product.On(t, n.Server.Host)
		p.Start("--mechanism", mechanism)
		traffic.EachQuestion(t, "with replypath", func(t *testing.T, f topology.Family, kind traffic.Kind) {
			wire.WantBy(t, n.Server, asked(kind, f), true)
		})
		if i := p.Status().Interface("eth1"); i == nil || i.Role != "records" {
			t.Errorf("eth1: %+v", i)
		}
	})
}

// TestRouterOnABridge has a virtual machine route for the host: eth1 is a bridge with no port but the machine's, and a gateway
// is reached by it.
func TestRouterOnABridge(t *testing.T) {
	server.EachMechanism(t, func(t *testing.T, mechanism string) {
		n := traffic.NewTwoNIC(t, topology.TwoNICOptions{Policy: topology.StrictSource, Eth1: topology.BridgeDevice, Eth1Metric: 2000})
		wantAllLost(t, n, n.Server)
		p := product.On(t, n.Server.Host)
		p.Start("--mechanism", mechanism)
		wantAllByEth1(t, n, n.Server)
	})
}
