// SPDX-License-Identifier: Apache-2.0

// Package managers runs what configures networks, and what starts services, on real hosts beside replypath:
// systemd-networkd, NetworkManager, ifupdown and systemd itself (scenario S8), agents of clouds (S9), firewalls,
// routing daemons and container engines (S7).
package managers

import (
	"fmt"
	"testing"

	"replypath/test/harness"
	_ "replypath/test/harness/inprocess"
	"replypath/test/topology"
)

func TestMain(m *testing.M) { harness.Main(m) }

// newServer builds the network of a server with two interfaces, the replication address behind a router that checks
// sources, and the recipe.
func newServer(t *testing.T) (*topology.TwoNIC, *harness.Recipe) {
	t.Helper()
	n := harness.NewTwoNIC(t, topology.TwoNICOptions{Policy: topology.StrictSource})
	return n, harness.ReadRecipe(t, "s8-reboot-and-restarts")
}

// eachQuestion runs a subtest for each family and kind of question to eth1, and tells which ways the answers left.
func eachQuestion(t *testing.T, n *topology.TwoNIC, name string, run func(testing.TB, *topology.Server, *harness.Conversation)) {
	t.Helper()
	wires, asked := harness.Tap(t, n.Server), 0
	harness.EachQuestionOf(t, n.Families(), name, func(t *testing.T, f topology.Family, kind harness.Kind) {
		asked++
		run(t, n.Server, harness.NewConversation(t, kind, n.ClientEth0, n.Server.Eth1.Address(f)))
	})
	t.Logf("%s: %d questions by IPv4 and IPv6, %s", name, asked, ways(n, wires))
}

// ways counts what left the server from eth1's addresses.
func ways(n *topology.TwoNIC, wires *harness.Wires) string {
	byEth0, byEth1 := 0, 0
	for _, f := range n.Families() {
		eth0, eth1 := wires.Left(topology.From(n.Server.Eth1.Address(f)))
		byEth0, byEth1 = byEth0+len(eth0), byEth1+len(eth1)
	}
	return fmt.Sprintf("%d frames by eth1, %d by eth0", byEth1, byEth0)
}

// keepAll has an open connection of each family ask eth1 all the time.
func keepAll(t *testing.T, n *topology.TwoNIC) map[*harness.Conversation]*harness.Talk {
	t.Helper()
	talks := make(map[*harness.Conversation]*harness.Talk)
	for _, f := range n.Families() {
		c := harness.NewConversation(t, harness.TCP, n.ClientEth0, n.Server.Eth1.Address(f))
		talks[c] = c.Keep(t)
	}
	return talks
}
