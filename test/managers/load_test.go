// SPDX-License-Identifier: Apache-2.0

package managers

import (
	"net/netip"
	"testing"
	"time"

	"replypath/test/server"
	"replypath/test/topology"
	"replypath/test/traffic"
)

// pace is how often a connection is opened.
const pace = 5 * time.Millisecond

// startLoad begins to ask, by connections that stay open and by one new connection after the other.
func startLoad(t *testing.T, n *topology.TwoNIC) *server.Load {
	t.Helper()
	return server.StartLoad(t, n, func(client *topology.Host, eth1 netip.AddrPort) []*traffic.Asker {
		return []*traffic.Asker{{Kind: traffic.TCP, From: client, To: eth1, Pace: pace},
			{Kind: traffic.TCP, From: client, To: eth1, Pace: pace * time.Duration(len(n.Families())), Fresh: true}}
	})
}
