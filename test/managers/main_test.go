// Package managers runs what configures networks, and what starts services, on real
// hosts beside replypath: systemd-networkd, NetworkManager, ifupdown and systemd
// itself (scenario S8).
package managers

import (
	"testing"

	"replypath/test/harness"
	"replypath/test/topology"
)

func TestMain(m *testing.M) { harness.Main(m) }

// newServer builds the network of a server with two interfaces, the replication
// address behind a router that checks sources, and the recipe.
func newServer(t *testing.T) (*topology.TwoNIC, *harness.Recipe) {
	t.Helper()
	n := harness.NewTwoNIC(t, topology.TwoNICOptions{Policy: topology.StrictSource})
	return n, harness.ReadRecipe(t, "s8-reboot-and-restarts")
}

// eachKind runs a subtest for each family and kind of question to eth1.
func eachKind(t *testing.T, n *topology.TwoNIC, name string, run func(*testing.T, *harness.Conversation)) {
	for _, f := range n.Families() {
		for _, kind := range harness.Kinds {
			t.Run(name+"/"+f.String()+"/"+string(kind), func(t *testing.T) {
				run(t, harness.NewConversation(t, kind, n.ClientEth0, n.Server.Eth1.Address(f)))
			})
		}
	}
}

// wantByEth1 asks, and wants answers by eth1 only.
func wantByEth1(t *testing.T, n *topology.TwoNIC, c *harness.Conversation) {
	t.Helper()
	wires := harness.Tap(t, n.Server)
	if err := c.Ask(harness.Within(t, harness.AnswerTime)); err != nil {
		t.Error(err)
	}
	wires.WantEth1(c.String(), c.Answers())
}
