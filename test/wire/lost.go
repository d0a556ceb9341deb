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
