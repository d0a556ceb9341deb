// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"bytes"
	"fmt"
	"net"
	"slices"
	"testing"

	"replypath/test/topology"
	"replypath/test/traffic"
)

// Exits holds captures at the far ends of some of a host's cables, which may lead to a switch: what they received has
// really left the host, and its MACs tell who it is for.
type Exits struct {
	t    testing.TB
	nics []*topology.Interface
	at   map[*topology.Interface]*topology.Capture
}

// TapAll captures what passes the cables of a host from now on.
func TapAll(t testing.TB, nics ...*topology.Interface) *Exits {
	t.Helper()
	e := &Exits{t: t, nics: nics, at: make(map[*topology.Interface]*topology.Capture)}
	for _, nic := range nics {
		e.at[nic] = Capture(t, nic.Peer())
	}
	return e
}

// At returns the capture at the far end of an interface's cable.
func (e *Exits) At(nic *topology.Interface) *topology.Capture { return e.at[nic] }

// Left returns what left the host by an interface.
func (e *Exits) Left(nic *topology.Interface, match topology.Filter) []*topology.Frame {
	return e.at[nic].Frames(topology.All(match, topology.Going(topology.Received)))
}

// Came returns what came to the host by an interface.
func (e *Exits) Came(nic *topology.Interface, match topology.Filter) []*topology.Frame {
	return e.at[nic].Frames(topology.All(match, topology.Going(topology.Sent)))
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
		if wrong := e.Left(nic, match); nic != by && len(wrong) > 0 {
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
		frames = append(frames, e.at[nic].Frames(match)...)
	}
	slices.SortStableFunc(frames, func(a, b *topology.Frame) int { return a.Time.Compare(b.Time) })
	return frames
}

// String lists what was captured, for a message.
func (e *Exits) String() string {
	var b bytes.Buffer
	for _, nic := range e.nics {
		fmt.Fprintf(&b, "%s: %s\n", nic.Name, Describe(e.at[nic].Frames(topology.Any)))
	}
	return b.String()
}
