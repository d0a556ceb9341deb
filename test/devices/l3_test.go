// SPDX-License-Identifier: Apache-2.0

package devices

import (
	"fmt"
	"net/netip"
	"testing"

	"replypath/test/await"
	testhost "replypath/test/host"
	"replypath/test/topology"
	"replypath/test/traffic"
)

// The networks of the tunnels of TestL3.
const (
	replicationTunnel = 50
	productionTunnel  = 51
)

// tunnelled is the address of a host in the network of a tunnel, in both families.
func tunnelled(network, host int) []netip.Prefix {
	return []netip.Prefix{
		netip.MustParsePrefix(fmt.Sprintf("10.%d.0.%d/24", network, host)),
		netip.MustParsePrefix(fmt.Sprintf("2001:db8:%d::%d/64", network, host)),
	}
}

// addTun lays a tunnel without Ethernet header from the server to a router of its, by
// which the client's way to the server's address there leads.
func addTun(t *testing.T, n *topology.TwoNIC, name string, router *topology.Router, network int) *topology.Interface {
	t.Helper()
	end, _, err := n.ConnectTun(
		topology.NIC{Host: n.Server.Host, Name: name, Addresses: tunnelled(network, 100)},
		topology.NIC{Host: router.Host, Name: name, Addresses: tunnelled(network, 1)})
	await.Must(t, err)
	await.Must(t, n.WaitReady(await.Within(t, await.AnswerTime)))
	core := await.Must1[*topology.Interface](t)(router.Interface("core"))
	for i, f := range n.Families() {
		await.Must(t, n.Core.AddRoute(topology.Route{Destination: tunnelled(network, 0)[i].Masked(), Via: core.Address(f)}))
		traffic.Serve(t, n.Server.Host, end.Address(f))
	}
	return end
}

// l3 is a server that is asked by one device and whose default route is by another, at least one of which has no
// Ethernet header. They stand for eth1 and eth0 in what this package wants.
type l3 struct {
	*topology.TwoNIC
	server *topology.Server
}

// defaultBy has the server's only default route lead over a device.
func (l l3) defaultBy(t *testing.T, i *topology.Interface) {
	t.Helper()
	for _, f := range l.Families() {
		testhost.Shell(t, l.Server.Host, fmt.Sprintf("ip -%[1]d route del default dev eth0; ip -%[1]d route add default via %[2]s dev %[3]s", int(f), i.Gateway(f), i.Name))
	}
}

// l3Networks are all combinations of devices with and without a header.
var l3Networks = map[string]func(*testing.T, *topology.TwoNIC) l3{
	"ethernet to tun": func(t *testing.T, n *topology.TwoNIC) l3 {
		tun := addTun(t, n, "tun1", n.Replication, replicationTunnel)
		return l3{n, &topology.Server{Host: n.Server.Host, Eth0: n.Server.Eth0, Eth1: tun}}
	},
	"tun to ethernet": func(t *testing.T, n *topology.TwoNIC) l3 {
		tun := addTun(t, n, "tun0", n.Production, productionTunnel)
		l := l3{n, &topology.Server{Host: n.Server.Host, Eth0: tun, Eth1: n.Server.Eth1}}
		l.defaultBy(t, tun)
		return l
	},
	"tun to tun": func(t *testing.T, n *topology.TwoNIC) l3 {
		asked := addTun(t, n, "tun1", n.Replication, replicationTunnel)
		routed := addTun(t, n, "tun0", n.Production, productionTunnel)
		l := l3{n, &topology.Server{Host: n.Server.Host, Eth0: routed, Eth1: asked}}
		l.defaultBy(t, routed)
		return l
	},
}
