// SPDX-License-Identifier: Apache-2.0

package devices

import (
	"net/netip"
	"testing"

	"replypath/test/await"
	"replypath/test/topology"
	"replypath/test/traffic"
)

// The overlay network of TestDistantTunnel.
var overlay = map[topology.Family][2]netip.Prefix{
	topology.IPv4: {netip.MustParsePrefix("10.40.0.1/24"), netip.MustParsePrefix("10.40.0.100/24")},
	topology.IPv6: {netip.MustParsePrefix("2001:db8:40::1/64"), netip.MustParsePrefix("2001:db8:40::100/64")},
}

// newVXLAN lays a VXLAN tunnel over eth1's network, from the replication router to the server, and has the client's way
// to the server's overlay address lead through it.
func newVXLAN(t *testing.T, outer topology.Family) (*topology.TwoNIC, *topology.Server) {
	t.Helper()
	n := traffic.NewTwoNIC(t, topology.TwoNICOptions{Policy: topology.StrictSource})
	v := topology.VXLAN{Name: "vxlan7", ID: 7}
	gateway, server := v, v
	gateway.Local, gateway.Remote = n.Server.Eth1.Gateway(outer), n.Server.Eth1.Address(outer)
	server.Local, server.Remote = gateway.Remote, gateway.Local
	for _, f := range n.Families() {
		gateway.Addresses = append(gateway.Addresses, overlay[f][0])
		server.Addresses = append(server.Addresses, overlay[f][1])
	}
	end, _, err := n.Tunnel(n.Server.Host, server, n.Replication.Host, gateway)
	await.Must(t, err)
	await.Must(t, n.WaitReady(await.Within(t, await.AnswerTime)))
	for _, f := range n.Families() {
		core, err := n.Replication.Interface("core")
		await.Must(t, err)
		await.Must(t, n.Core.AddRoute(topology.Route{Destination: overlay[f][0].Masked(), Via: core.Address(f)}))
		traffic.Serve(t, n.Server.Host, end.Address(f))
	}
	return n, &topology.Server{Host: n.Server.Host, Eth0: n.Server.Eth0, Eth1: end}
}
