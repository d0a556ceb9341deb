// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"testing"

	"replypath/test/harness"
	"replypath/test/topology"
)

// wantAnswers asks for more and more, and wants every answer to leave the server
// by eth1, or by eth0, with the MAC of its gateway there.
func wantAnswers(t *testing.T, server *topology.Server, c *harness.Conversation, eth1 bool) {
	t.Helper()
	wires := harness.Tap(t, server)
	harness.AskSizes(t, c)
	by := wires.Eth0
	if eth1 {
		by = wires.Eth1
	}
	harness.End(t, c, by, c.Answers())
	wires.Want(eth1, c.String(), c.Answers())
}

// wantLost asks, and wants the answer to leave by eth0 and never to arrive.
func wantLost(t *testing.T, server *topology.Server, c *harness.Conversation, client *topology.Interface) {
	t.Helper()
	wires, arrived := harness.Tap(t, server), harness.Capture(t, client)
	if err := harness.AskInVain(t, c, wires.Eth0); err == nil {
		t.Error("the question was answered, although its answer came from the wrong side")
	}
	wires.WantEth0("an answer that gets lost", c.Answers())
	if wires.Eth1.Count(topology.All(c.Questions(), topology.Going(topology.Sent))) == 0 {
		t.Error("no question reached the server by eth1")
	}
	if n := arrived.Count(c.Answers()); n != 0 {
		t.Errorf("%d answers reached the client", n)
	}
}
