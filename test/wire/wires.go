// SPDX-License-Identifier: Apache-2.0

// Package wire looks at what passes the cables of a host.
package wire

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"replypath/test/await"
	"replypath/test/topology"
	"replypath/test/traffic"
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

// Exits holds captures at the far ends of some of a host's cables, which may lead to a switch: what they received has
// really left the host, and its MACs tell who it is for.
type Exits struct {
	t    testing.TB
	nics []*topology.Interface
	at   map[end]*topology.Capture
}

// end is a host's end of a cable: one that is deleted and made anew is the same.
type end struct {
	host *topology.Host
	name string
}

func endOf(nic *topology.Interface) end { return end{nic.Host, nic.Name} }

// TapAll captures what passes the cables of a host from now on.
func TapAll(t testing.TB, nics ...*topology.Interface) *Exits {
	t.Helper()
	e := &Exits{t: t, nics: nics, at: make(map[end]*topology.Capture)}
	for _, nic := range nics {
		e.at[endOf(nic)] = Capture(t, nic.Peer())
	}
	return e
}

// At returns the capture at the far end of an interface's cable.
func (e *Exits) At(nic *topology.Interface) *topology.Capture { return e.at[endOf(nic)] }

// Left returns what left the host by an interface.
func (e *Exits) Left(nic *topology.Interface, match topology.Filter) []*topology.Frame {
	return e.at[endOf(nic)].Frames(topology.All(match, topology.Going(topology.Received)))
}

// Came returns what came to the host by an interface.
func (e *Exits) Came(nic *topology.Interface, match topology.Filter) []*topology.Frame {
	return e.at[endOf(nic)].Frames(topology.All(match, topology.Going(topology.Sent)))
}

// Want wants at least one of the frames, and all of them by one interface, from its MAC to another. It returns them.
func (e *Exits) Want(what string, match topology.Filter, by *topology.Interface, to net.HardwareAddr) []*topology.Frame {
	e.t.Helper()
	right, figures := e.Left(by, match), traffic.FiguresOf(e.t)
	figures.Right.Add(int64(len(right)))
	if len(right) == 0 {
		e.t.Errorf("%s: no frame left by %s", what, by.Name)
	}
	for _, nic := range e.nics {
		if wrong := e.Left(nic, match); endOf(nic) != endOf(by) && len(wrong) > 0 {
			figures.Wrong.Add(int64(len(wrong)))
			e.t.Errorf("%s: %d frames left by %s, but by %s %s", what, len(right), by.Name, nic.Name, Describe(wrong))
		}
	}
	var misaddressed []*topology.Frame
	for _, frame := range right {
		if !bytes.Equal(frame.SourceMAC, by.MAC) || !bytes.Equal(frame.DestinationMAC, to) {
			misaddressed = append(misaddressed, frame)
		}
	}
	if len(misaddressed) > 0 {
		e.t.Errorf("%s: not from %s (%s) to %s: %s", what, by.Name, by.MAC, to, Describe(misaddressed))
	}
	return right
}

// All returns what passed any of the cables, in the order in which it did.
func (e *Exits) All(match topology.Filter) (frames []*topology.Frame) {
	for _, nic := range e.nics {
		frames = append(frames, e.at[endOf(nic)].Frames(match)...)
	}
	slices.SortStableFunc(frames, func(a, b *topology.Frame) int { return a.Time.Compare(b.Time) })
	return frames
}

// String lists what was captured, for a message.
func (e *Exits) String() string {
	var b bytes.Buffer
	for _, nic := range e.nics {
		fmt.Fprintf(&b, "%s: %s\n", nic.Name, Describe(e.at[endOf(nic)].Frames(topology.Any)))
	}
	return b.String()
}

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
