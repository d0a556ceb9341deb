// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"fmt"
	"net/netip"
	"testing"

	"replypath/test/harness"
	"replypath/test/topology"
)

// reserved are networks that Linux routes like any other, in spite of what they are
// reserved for (RFC 6890): the client has the first, the server's eth1 the second.
var reserved = [][2]netip.Prefix{
	{netip.MustParsePrefix("240.9.0.100/24"), netip.MustParsePrefix("240.1.0.100/24")},
	{netip.MustParsePrefix("0.9.0.100/24"), netip.MustParsePrefix("0.1.0.100/24")},
}

// withReserved gives the client and the server's eth1 such addresses as well, and the
// routers the ways there.
func withReserved(t *testing.T, n *topology.TwoNIC) {
	t.Helper()
	towardsReplication := harness.Must1[*topology.Interface](t)(n.Replication.Interface("core")).Address(topology.IPv4)
	for _, pair := range reserved {
		client, server := pair[0], pair[1]
		harness.Must(t, n.ClientEth0.AddAddress(client))
		harness.Must(t, n.Server.Eth1.AddAddress(server))
		harness.Must(t, n.ClientEth0.Peer().AddAddress(gatewayOf(client)))
		harness.Must(t, n.Server.Eth1.Peer().AddAddress(gatewayOf(server)))
		harness.Must(t, n.Core.AddRoute(topology.Route{Destination: server.Masked(), Via: towardsReplication}))
		harness.Must(t, n.ClientEth0.WaitReady(harness.Within(t, harness.AnswerTime)))
		harness.Must(t, n.Server.Eth1.WaitReady(harness.Within(t, harness.AnswerTime)))
		harness.Serve(t, n.Server.Host, server.Addr())
	}
}

// gatewayOf is the first address of a network.
func gatewayOf(p netip.Prefix) netip.Prefix {
	return netip.PrefixFrom(p.Masked().Addr().Next(), p.Bits())
}

// TestReservedAddresses has a client and a server with addresses of 240.0.0.0/4 and 0.0.0.0/8,
// which clouds use: their answers leave by the interface that was asked, as any others.
func TestReservedAddresses(t *testing.T) {
	n := harness.NewTwoNIC(t, topology.TwoNICOptions{Policy: topology.StrictSource, NoIPv6: true})
	withReserved(t, n)
	peers := []netip.Prefix{reserved[0][0], reserved[1][0], n.ClientEth0.Addresses[0]}
	selves := []netip.Prefix{reserved[0][1], reserved[1][1], n.Server.Eth1.Addresses[0]}
	each := func(name string, want func(*testing.T, *harness.Conversation)) {
		for _, kind := range harness.Kinds {
			for i, peer := range peers {
				for j, self := range selves {
					if i == 2 && j == 2 {
						continue // not reserved
					}
					t.Run(fmt.Sprintf("%s/%s/%s-%s", name, kind, peer.Addr(), self.Addr()), func(t *testing.T) {
						client := *n.ClientEth0
						client.Addresses = []netip.Prefix{peer}
						want(t, harness.NewConversation(t, kind, &client, self.Addr()))
					})
				}
			}
		}
	}
	each("without replypath", func(t *testing.T, c *harness.Conversation) { wantLost(t, n.Server, c, n.ClientEth0) })
	p := harness.On(t, n.Server.Host)
	p.Start()
	each("with replypath", func(t *testing.T, c *harness.Conversation) {
		wantAnswers(t, n.Server, c, true)
		wantVerdict(t, explained(t, p, c), "corrected", "")
	})
}
