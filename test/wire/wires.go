// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"replypath/test/await"
	"replypath/test/topology"
	"replypath/test/traffic"
)

// Wires holds captures at the far ends of a server's cables: what they received has really left the server.
type Wires struct {
	Eth0, Eth1 *topology.Capture

	t      testing.TB
	server *topology.Server
}

// Tap captures what leaves a server from now on.
func Tap(t testing.TB, server *topology.Server) *Wires {
	t.Helper()
	return &Wires{
		Eth0: Capture(t, server.Eth0.Peer()), Eth1: Capture(t, server.Eth1.Peer()),
		t: t, server: server,
	}
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
	w.t.Helper()
	for _, c := range []*topology.Capture{w.Eth0, w.Eth1} {
		if err := c.Stop(); err != nil {
			w.t.Error(err)
		}
	}
}

// Left returns what left the server by eth0 and by eth1.
func (w *Wires) Left(match topology.Filter) (eth0, eth1 []*topology.Frame) {
	match = topology.All(match, topology.Going(topology.Received))
	return w.Eth0.Frames(match), w.Eth1.Frames(match)
}

// WantEth1 wants at least one of the frames, and all of them by eth1, from its MAC to that of its gateway. It returns
// them.
func (w *Wires) WantEth1(what string, match topology.Filter) []*topology.Frame {
	w.t.Helper()
	eth0, eth1 := w.Left(match)
	w.wantOnly(what, w.server.Eth1, eth1, eth0)
	return eth1
}

// WantEth0 is WantEth1 for what goes the way that the kernel alone would send it.
func (w *Wires) WantEth0(what string, match topology.Filter) []*topology.Frame {
	w.t.Helper()
	eth0, eth1 := w.Left(match)
	w.wantOnly(what, w.server.Eth0, eth0, eth1)
	return eth0
}

// Want is WantEth1, or WantEth0.
func (w *Wires) Want(eth1 bool, what string, match topology.Filter) []*topology.Frame {
	w.t.Helper()
	if eth1 {
		return w.WantEth1(what, match)
	}
	return w.WantEth0(what, match)
}

func (w *Wires) wantOnly(what string, nic *topology.Interface, right, wrong []*topology.Frame) {
	w.t.Helper()
	f := traffic.FiguresOf(w.t)
	f.Right.Add(int64(len(right)))
	f.Wrong.Add(int64(len(wrong)))
	if len(right) == 0 {
		w.t.Errorf("%s: no frame left by %s", what, nic.Name)
	}
	if len(wrong) > 0 {
		w.t.Errorf("%s: %d frames left by %s, but also %s", what, len(right), nic.Name, Describe(wrong))
	}
	var misaddressed []*topology.Frame
	for _, frame := range right {
		if !bytes.Equal(frame.SourceMAC, nic.MAC) || !bytes.Equal(frame.DestinationMAC, nic.Peer().MAC) {
			misaddressed = append(misaddressed, frame)
		}
	}
	if len(misaddressed) > 0 {
		w.t.Errorf("%s: not from %s (%s) to its gateway (%s): %s",
			what, nic.Name, nic.MAC, nic.Peer().MAC, Describe(misaddressed))
	}
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
