// SPDX-License-Identifier: Apache-2.0

// Package wire looks at what passes the cables of a host.
package wire

import (
	"fmt"
	"strings"
	"testing"

	"replypath/test/await"
	"replypath/test/topology"
)

// Wires are the exits of a server with two NICs.
type Wires struct {
	Eth0, Eth1 *topology.Capture

	exits  *Exits
	server *topology.Server
}

// Tap captures what leaves a server from now on.
func Tap(t testing.TB, server *topology.Server) *Wires {
	t.Helper()
	exits := TapAll(t, server.Eth0, server.Eth1)
	return &Wires{Eth0: exits.At(server.Eth0), Eth1: exits.At(server.Eth1), exits: exits, server: server}
}

// Capture captures at an interface until the test ends.
func Capture(t testing.TB, at *topology.Interface) *topology.Capture {
	t.Helper()
	c := await.Must1[*topology.Capture](t)(at.Capture(topology.CaptureOptions{}))
	t.Cleanup(func() {
		if err := c.Stop(); err != nil {
			t.Error(err)
		}
	})
	return c
}

// Stop ends both captures. Their frames can still be read.
func (w *Wires) Stop() {
	w.exits.t.Helper()
	for _, c := range []*topology.Capture{w.Eth0, w.Eth1} {
		if err := c.Stop(); err != nil {
			w.exits.t.Error(err)
		}
	}
}

// Left returns what left the server by eth0 and by eth1.
func (w *Wires) Left(match topology.Filter) (eth0, eth1 []*topology.Frame) {
	return w.exits.Left(w.server.Eth0, match), w.exits.Left(w.server.Eth1, match)
}

// WantEth1 wants at least one of the frames, and all of them by eth1, from its MAC to that of its gateway. It returns
// them.
func (w *Wires) WantEth1(what string, match topology.Filter) []*topology.Frame {
	w.exits.t.Helper()
	return w.exits.Want(what, match, w.server.Eth1, w.server.Eth1.Peer().MAC)
}

// WantEth0 is WantEth1 for what goes the way that the kernel alone would send it.
func (w *Wires) WantEth0(what string, match topology.Filter) []*topology.Frame {
	w.exits.t.Helper()
	return w.exits.Want(what, match, w.server.Eth0, w.server.Eth0.Peer().MAC)
}

// Want is WantEth1, or WantEth0.
func (w *Wires) Want(eth1 bool, what string, match topology.Filter) []*topology.Frame {
	w.exits.t.Helper()
	if eth1 {
		return w.WantEth1(what, match)
	}
	return w.WantEth0(what, match)
}

// describedFrames bounds how much of a capture a message shows.
const describedFrames = 5

// Describe lists frames for a message.
func Describe(frames []*topology.Frame) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d frames", len(frames))
	for i, frame := range frames {
		if i == describedFrames {
			b.WriteString("\n\t...")
			break
		}
		fmt.Fprintf(&b, "\n\t%s", frame)
	}
	return b.String()
}

// Bytes adds up the lengths of frames, Ethernet headers included.
func Bytes(frames []*topology.Frame) uint64 {
	var sum uint64
	for _, frame := range frames {
		sum += uint64(frame.Length)
	}
	return sum
}
