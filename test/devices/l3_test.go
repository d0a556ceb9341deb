// SPDX-License-Identifier: Apache-2.0

package devices

import (
	"fmt"
	"net/netip"
	"testing"

	"replypath/test/await"
	"replypath/test/topology"
	"replypath/test/traffic"
)

// replicationTunnel is the network of a tunnel to the replication router.
const replicationTunnel = 50

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
