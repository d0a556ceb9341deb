// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"context"
	"testing"
	"time"

	"replypath/test/await"
	"replypath/test/topology"
	"replypath/test/traffic"
)

// End closes a connection by TCP, and waits at a capture for the server's FIN, which is one of its answers. What has no
// connection goes on.
func End(t testing.TB, c *traffic.Conversation, at *topology.Capture, answers topology.Filter) {
	t.Helper()
	if c.Kind != traffic.TCP {
		return
	}
	await.Must(t, c.Close())
	fin := topology.All(answers, topology.Flags(topology.FIN, topology.FIN), topology.Going(topology.Received))
	if _, err := at.Wait(await.Within(t, await.AnswerTime), fin); err != nil {
		t.Errorf("the server's end of the connection: %v", err)
	}
}

// WantByEth1 asks, and wants the answers to leave by the server's eth1 only.
func WantByEth1(t testing.TB, server *topology.Server, c *traffic.Conversation) {
	t.Helper()
	wires := Tap(t, server)
	if err := c.Ask(await.Within(t, await.AnswerTime)); err != nil {
		t.Error(err)
	} else {
		// What another processor captures at the same time may keep the answer back for a moment: frames are taken in
		// turn. Whether it came at all is judged below.
		_, _ = wires.Eth1.Wait(await.Within(t, await.AnswerTime), c.Answers())
	}
	wires.WantEth1(c.String(), c.Answers())
}

// WantBy asks, and wants the answers to leave by the server's eth1 only, or by its eth0. It returns them.
func WantBy(t testing.TB, server *topology.Server, c *traffic.Conversation, eth1 bool) []*topology.Frame {
	t.Helper()
	wires := Tap(t, server)
	traffic.Ask(t, c)
	return wires.Want(eth1, c.String(), c.Answers())
}

// AskInVain asks until an answer has passed a capture and has had the time to arrive, and returns what became of the
// question.
func AskInVain(t testing.TB, c *traffic.Conversation, passes *topology.Capture) error {
	t.Helper()
	return AskUntilLost(t, c, passes, c.Answers())
}

// AskUntilLost asks until a frame, of an answer as a rule, has passed a capture and has had the time to arrive, and
// returns what became of the question.
func AskUntilLost(t testing.TB, c *traffic.Conversation, passes *topology.Capture, frame topology.Filter) error {
	t.Helper()
	ctx, cancel := context.WithCancel(await.Within(t, await.AnswerTime))
	asked := make(chan error, 1)
	go func() { asked <- c.Ask(ctx) }()
	if _, err := passes.Wait(ctx, frame); err != nil {
		t.Errorf("%s: not seen: %v", c, err)
	}
	silence := time.AfterFunc(await.SilenceTime, cancel)
	defer silence.Stop()
	return <-asked
}

// WantLost asks, and wants the answers to leave the server by eth0 and not to arrive.
func WantLost(t testing.TB, server *topology.Server, c *traffic.Conversation) {
	t.Helper()
	wires := Tap(t, server)
	if err := AskInVain(t, c, wires.Eth0); err == nil {
		t.Errorf("%s was answered, although its answer came from the wrong side", c)
	}
	wires.WantEth0(c.String(), c.Answers())
}
