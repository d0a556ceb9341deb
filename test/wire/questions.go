// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"testing"

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
