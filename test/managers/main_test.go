// Package managers runs what configures networks on real hosts beside replypath:
// systemd-networkd, ifupdown, systemd itself, and what NetworkManager does (scenario
// S8).
package managers

import (
	"context"
	"testing"
	"time"

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

// wantLost asks, and wants the answer to leave by eth0 and not to arrive.
func wantLost(t *testing.T, n *topology.TwoNIC, c *harness.Conversation) {
	t.Helper()
	wires := harness.Tap(t, n.Server)
	ctx, cancel := context.WithCancel(harness.Within(t, harness.AnswerTime))
	asked := make(chan error, 1)
	go func() { asked <- c.Ask(ctx) }()
	if _, err := wires.Eth0.Wait(ctx, c.Answers()); err != nil {
		t.Errorf("no answer left by eth0: %v", err)
	}
	time.AfterFunc(harness.SilenceTime, cancel)
	if err := <-asked; err == nil {
		t.Errorf("%s was answered, although its answer came from the wrong side", c)
	}
	wires.WantEth0(c.String(), c.Answers())
}
