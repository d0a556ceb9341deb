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
	for _, size := range []int{1, 1000, 60_000} {
		if c.Kind != harness.TCP && size > 1000 {
			continue // would be fragmented
		}
		if err := c.AskFor(harness.Within(t, harness.AnswerTime), size); err != nil {
			t.Errorf("%d bytes: %v", size, err)
		}
	}
	by := wires.Eth0
	if eth1 {
		by = wires.Eth1
	}
	if c.Kind == harness.TCP {
		harness.Must(t, c.Close())
		fin := topology.All(c.Answers(), topology.Flags(topology.FIN, topology.FIN))
		if _, err := by.Wait(harness.Within(t, harness.AnswerTime), fin); err != nil {
			t.Errorf("the server's end of the connection: %v", err)
		}
	}
	if eth1 {
		wires.WantEth1(c.String(), c.Answers())
	} else {
		wires.WantEth0(c.String(), c.Answers())
	}
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
