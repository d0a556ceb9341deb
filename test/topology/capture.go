// SPDX-License-Identifier: Apache-2.0

package topology

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"
)

// CaptureOptions are the properties of a capture; the zero value serves most.
type CaptureOptions struct {
	// SnapLength is how many bytes of a frame are kept; 0 is 256. The length
	// on the wire is known in any case.
	SnapLength int
	// Backlog is how many frames may wait for this process; 0 is 16384. Each
	// takes the snap length rounded up to a power of two of kernel memory,
	// 512 bytes at the default length.
	Backlog int
	// Promiscuous asks the interface for frames to other MACs. A veth
	// receives them anyway; a macvlan does not.
	Promiscuous bool
	// Only, where it is set, keeps what is no packet from or to this address out of
	// the capture: a flood would fill it otherwise.
	Only netip.Addr
	// ReceivedOnly leaves out what is sent here.
	ReceivedOnly bool
}

const (
	defaultSnapLength = 256
	defaultBacklog    = 16384
)

// Capture holds the frames that passed an interface since it was made. It
// loses none without saying so: see Stop.
//
// A frame is there before whoever it is for can act on it: once an answer has
// come back, the question has been captured on the whole way.
type Capture struct {
	nic         *Interface
	snap        int
	interrupted chan struct{} // closed when the reader has ended

	mu      sync.Mutex
	ring    *ring // nil once stopped
	frames  []*Frame
	arrived chan struct{} // closed at the next frame, or at the end
	file    *os.File
	stop    func() error
}

// Capture starts to capture in both directions. What is received here was
// really sent by the other end; what is sent here has passed all of the host's
// own programs and queues.
func (i *Interface) Capture(options CaptureOptions) (*Capture, error) {
	c, err := i.capture(options)
	if err != nil {
		return nil, i.errorf("capture: %w", err)
	}
	return c, nil
}

func (i *Interface) capture(options CaptureOptions) (*Capture, error) {
	if options.SnapLength == 0 {
		options.SnapLength = defaultSnapLength
	}
	if options.Backlog == 0 {
		options.Backlog = defaultBacklog
	}
	c := &Capture{
		nic: i, snap: options.SnapLength,
		interrupted: make(chan struct{}), arrived: make(chan struct{}),
	}
	err := i.Host.Do(func() error {
		var err error
		c.ring, err = openRing(i.Index, options)
		return err
	})
	if err != nil {
		return nil, err
	}
	c.stop = sync.OnceValue(c.finish)
	c.file = os.NewFile(uintptr(c.ring.fd), "capture of "+i.Name)
	conn, err := c.file.SyscallConn()
	if err != nil {
		return nil, errors.Join(err, c.ring.unmap(), c.file.Close())
	}
	go c.read(conn)
	return c, i.Host.network.onClose(c.Stop)
}

// read collects frames until Stop sets the deadline.
func (c *Capture) read(conn syscall.RawConn) {
	defer close(c.interrupted)
	// The error is the deadline's.
	_ = conn.Read(func(uintptr) bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.drain()
		return false
	})
}

// drain takes what the kernel has finished. The caller holds c.mu.
func (c *Capture) drain() {
	if c.ring == nil {
		return
	}
	before := len(c.frames)
	c.ring.drain(func(s slot) { c.frames = append(c.frames, newFrame(s, c.snap)) })
	if len(c.frames) > before {
		close(c.arrived)
		c.arrived = make(chan struct{})
	}
}

// Stop ends the capture and returns an error if a frame was lost in it. The
// frames can still be read. Further calls return the same; a capture that
// nobody stopped is stopped by the network's Close.
func (c *Capture) Stop() error {
	return c.stop()
}

func (c *Capture) finish() error {
	deadlineErr := c.file.SetReadDeadline(time.Unix(0, 1))
	if deadlineErr == nil {
		<-c.interrupted
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.drain()
	lost, err := c.ring.lost()
	if err == nil && lost > 0 {
		err = fmt.Errorf("%d frames were lost beside %d captured: the backlog is too small", lost, len(c.frames))
	}
	err = errors.Join(deadlineErr, err, c.ring.unmap(), c.file.Close())
	c.ring = nil
	close(c.arrived)
	if err != nil {
		return c.nic.errorf("capture: %w", err)
	}
	return nil
}

// Frames returns the frames that match, in the order in which they passed.
func (c *Capture) Frames(match Filter) []*Frame {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.drain()
	var found []*Frame
	for _, f := range c.frames {
		if match(f) {
			found = append(found, f)
		}
	}
	return found
}

// Take is Frames that forgets all frames until now, also those that do not match,
// for captures that go on for long. It is not for use beside Wait and WaitCount.
func (c *Capture) Take(match Filter) []*Frame {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.drain()
	found := slices.DeleteFunc(c.frames, func(f *Frame) bool { return !match(f) })
	c.frames = nil
	return found
}

// Count returns how many frames match.
func (c *Capture) Count(match Filter) int {
	return len(c.Frames(match))
}

// ErrStopped says that a capture ended before what was waited for.
var ErrStopped = errors.New("capture was stopped")

// Wait returns the first frame that matches, captured already or still to come.
func (c *Capture) Wait(ctx context.Context, match Filter) (*Frame, error) {
	frames, err := c.WaitCount(ctx, 1, match)
	if err != nil {
		return nil, err
	}
	return frames[0], nil
}

// WaitCount returns the matching frames as soon as there are at least n.
func (c *Capture) WaitCount(ctx context.Context, n int, match Filter) ([]*Frame, error) {
	var found []*Frame
	seen := 0
	for {
		fresh, arrived, stopped := c.since(seen)
		for _, f := range fresh {
			if match(f) {
				found = append(found, f)
			}
		}
		seen += len(fresh)
		if len(found) >= n {
			return found, nil
		}
		if stopped {
			return nil, c.nic.errorf("%d of %d frames: %w", len(found), n, ErrStopped)
		}
		select {
		case <-ctx.Done():
			return nil, c.nic.errorf("%d of %d frames: %w", len(found), n, context.Cause(ctx))
		case <-arrived:
		}
	}
}

// since returns the frames after the first seen ones and what to wait on for
// more.
func (c *Capture) since(seen int) (fresh []*Frame, arrived <-chan struct{}, stopped bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.drain()
	return c.frames[seen:], c.arrived, c.ring == nil
}

// WritePcap writes the frames that match as a pcap file.
func (c *Capture) WritePcap(w io.Writer, match Filter) error {
	writer := pcapgo.NewWriterNanos(w)
	if err := writer.WriteFileHeader(uint32(c.snap), layers.LinkTypeEthernet); err != nil {
		return err
	}
	for _, f := range c.Frames(match) {
		err := writer.WritePacket(gopacket.CaptureInfo{
			Timestamp: f.Time, CaptureLength: len(f.Data), Length: f.Length,
		}, f.Data)
		if err != nil {
			return err
		}
	}
	return nil
}
