// SPDX-License-Identifier: Apache-2.0

// Package managers runs what configures networks, and what starts services, on real hosts beside replypath:
// systemd-networkd, NetworkManager, ifupdown and systemd itself (scenario S8), agents of clouds (S9), firewalls,
// routing daemons and container engines (S7).
package managers

import (
	"testing"

	"replypath/test/host"
	"replypath/test/product"
	_ "replypath/test/product/inprocess"
	"replypath/test/topology"
	"replypath/test/traffic"
)

func TestMain(m *testing.M) { product.Main(m) }

// newServer builds the network of a server with two interfaces, the replication address behind a router that checks
// sources, and the recipe.
func newServer(t *testing.T) (*topology.TwoNIC, *host.Recipe) {
	t.Helper()
	n := traffic.NewTwoNIC(t, topology.TwoNICOptions{Policy: topology.StrictSource})
	return n, host.ReadRecipe(t, "s8-reboot-and-restarts")
}

// eachQuestion runs a subtest for each family and kind of question to eth1.
func eachQuestion(t *testing.T, n *topology.TwoNIC, name string, run func(testing.TB, *topology.Server, *traffic.Conversation)) {
	t.Helper()
	traffic.EachQuestionOf(t, n.Families(), name, func(t *testing.T, f topology.Family, kind traffic.Kind) {
		run(t, n.Server, traffic.NewConversation(t, kind, n.ClientEth0, n.Server.Eth1.Address(f)))
	})
}
