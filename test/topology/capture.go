// SPDX-License-Identifier: Apache-2.0

package topology

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"sync"
	"syscall"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// CaptureOptions are the properties of a capture; the zero value serves most. All captures of an interface with that
// share one ring.
type CaptureOptions struct {
	// Backlog is how many frames may wait for this process; 0 is 16384. Each takes 512 bytes of kernel memory.
	Backlog int
	// Only, where it is set, keeps what is no packet from or to this address out of the capture: a flood would fill it
	// otherwise.
	Only netip.Addr
	// ReceivedOnly leaves out what is sent here.
	ReceivedOnly bool
}

const (
	// snapLength is how many bytes of a frame are kept. The length on the wire is known in any case.
	snapLength     = 256
	defaultBacklog = 16384
)

// Capture holds the frames that passed an interface since it was made. It loses none without saying so: see Stop.
//
// A frame is there before whoever it is for can act on it: once an answer has come back, the question has been captured
// on the whole way.
type Capture struct {
	nic  *Interface
	from *recorder
	stop func() error

	// The recorder's mutex guards these.
	begin      int    // the number of its first frame
	lostBefore uint64 // what the recorder had lost by then
	stopped    bool
	kept       []*Frame // what it has, once it is stopped
}

// recorder collects the frames of an interface for the captures that look at them. To open and to close a ring takes
// the kernel tens of milliseconds: one serves all captures of an interface until the network is closed.
type recorder struct {
	index int

	mu       sync.Mutex
	ring     *ring // nil once closed
	file     *os.File
	captures map[*Capture]struct{}
	first    int // the number of frames[0]
	frames   []*Frame
	arrived  chan struct{} // closed at the next frame, or when a capture stops
}

// Capture starts to capture in both directions. What is received here was really sent by the other end; what is sent
// here has passed all of the host's own programs and queues.
func (i *Interface) Capture(options CaptureOptions) (*Capture, error) {
	c, err := i.capture(options)
	return c, i.named(err, "capture")
}

func (i *Interface) capture(options CaptureOptions) (*Capture, error) {
	shared := options == CaptureOptions{}
	r, err := i.recorder(shared, options)
	if err != nil {
		return nil, err
	}
	c := &Capture{nic: i, from: r}
	c.stop = sync.OnceValue(func() error {
		err := r.remove(c, shared)
		if !shared {
			err = errors.Join(err, r.close())
		}
		return i.named(err, "capture")
	})
	if err := r.add(c, shared); err != nil {
		return nil, errors.Join(err, c.Stop())
	}
	return c, i.Host.network.onClose(c.Stop)
}

// recorder returns the one that captures share, or one of a capture's own.
func (i *Interface) recorder(shared bool, options CaptureOptions) (*recorder, error) {
	if !shared {
		return i.newRecorder(options)
	}
	n, key := i.Host.network, recorderKey{i.Host, i.Index}
	n.recording.Lock()
	defer n.recording.Unlock()
	if r := n.recorders[key]; r != nil && r.isBound() {
		return r, nil
	}
	r, err := i.newRecorder(options)
	if err != nil {
		return nil, err
	}
	n.recorders[key] = r
	return r, n.onClose(r.close)
}

func (i *Interface) newRecorder(options CaptureOptions) (*recorder, error) {
	if options.Backlog == 0 {
		options.Backlog = defaultBacklog
	}
	r := &recorder{index: i.Index, captures: make(map[*Capture]struct{}), arrived: make(chan struct{})}
	var err error
	if r.ring, err = valueIn(i.Host, func() (*ring, error) { return openRing(i.Index, options) }); err != nil {
		return nil, err
	}
	r.file = os.NewFile(uintptr(r.ring.fd), "capture of "+i.Name)
	conn, err := r.file.SyscallConn()
	if err != nil {
		return nil, errors.Join(err, r.ring.unmap(), r.file.Close())
	}
	go r.read(conn)
	return r, nil
}

// recorderKey names a device of a network.
type recorderKey struct {
	host  *Host
	index int
}

// isBound is false once the device has left its namespace, though it may have come back.
func (r *recorder) isBound() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ring == nil {
		return false
	}
	address, err := unix.Getsockname(r.ring.fd)
	link, ok := address.(*unix.SockaddrLinklayer)
	return err == nil && ok && link.Ifindex == r.index
}

// read collects frames until the file is closed.
func (r *recorder) read(conn syscall.RawConn) {
	_ = conn.Read(func(uintptr) bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.drain()
		return false
	})
}

// drain takes what the kernel has finished. The caller holds r.mu.
func (r *recorder) drain() {
	if r.ring == nil {
		return
	}
	before := len(r.frames)
	r.ring.drain(func(s slot) {
		if len(r.captures) > 0 {
			r.frames = append(r.frames, newFrame(s))
		}
	})
	if len(r.frames) > before {
		r.tell()
	}
}

// tell wakes who waits for frames.
func (r *recorder) tell() {
	close(r.arrived)
	r.arrived = make(chan struct{})
}

// While no capture looks, the kernel keeps nothing of a shared recorder's.
var (
	everything = []bpf.Instruction{bpf.RetConstant{Val: 1 << 18}}
	nothing    = []bpf.Instruction{bpf.RetConstant{Val: 0}}
)

func (r *recorder) add(c *Capture, shared bool) (err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ring == nil {
		return ErrClosed
	}
	r.drain()
	c.begin = r.first + len(r.frames)
	if shared && len(r.captures) == 0 {
		if err := attachFilter(r.ring.fd, everything); err != nil {
			return err
		}
	}
	c.lostBefore, err = r.ring.lost()
	r.captures[c] = struct{}{}
	return err
}

// remove ends a capture and tells whether it has lost a frame.
func (r *recorder) remove(c *Capture, shared bool) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ring == nil {
		return nil
	}
	r.drain()
	c.kept, c.stopped = slices.Clip(r.frames[c.begin-r.first:]), true
	delete(r.captures, c)
	lost, err := r.ring.lost()
	if lost -= c.lostBefore; err == nil && lost > 0 {
		err = fmt.Errorf("%d frames were lost beside %d captured: the backlog is too small", lost, len(c.kept))
	}
	if shared && len(r.captures) == 0 {
		err = errors.Join(err, attachFilter(r.ring.fd, nothing))
	}
	r.forget()
	r.tell()
	return err
}

// forget drops the frames that no capture looks at any more.
func (r *recorder) forget() {
	oldest := r.first + len(r.frames)
	for c := range r.captures {
		oldest = min(oldest, c.begin)
	}
	if oldest > r.first {
		r.first, r.frames = oldest, slices.Clone(r.frames[oldest-r.first:])
	}
}

// close does not wait for the kernel, which takes the socket's leave of all processors.
func (r *recorder) close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	err := r.ring.unmap()
	r.ring = nil
	go r.file.Close()
	return err
}

// Stop ends the capture and returns an error if a frame was lost in it. The frames can still be read. Further calls
// return the same; a capture that nobody stopped is stopped by the network's Close.
func (c *Capture) Stop() error {
	return c.stop()
}

// Frames returns the frames that match, in the order in which they passed.
func (c *Capture) Frames(match Filter) []*Frame {
	frames, _, _ := c.since(0)
	return matching(frames, match)
}

func matching(frames []*Frame, match Filter) []*Frame {
	var found []*Frame
	for _, f := range frames {
		if match(f) {
			found = append(found, f)
		}
	}
	return found
}

// Take is Frames that forgets all frames until now, also those that do not match, for captures that go on for long. It
// is not for use beside Wait and WaitCount.
func (c *Capture) Take(match Filter) []*Frame {
	c.from.mu.Lock()
	defer c.from.mu.Unlock()
	found := matching(c.frames(), match)
	c.kept = nil
	c.begin = c.from.first + len(c.from.frames)
	c.from.forget()
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
	for seen := 0; ; {
		fresh, arrived, stopped := c.since(seen)
		found = append(found, matching(fresh, match)...)
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

// since returns the frames after the first seen ones and what to wait on for more.
func (c *Capture) since(seen int) (fresh []*Frame, arrived <-chan struct{}, stopped bool) {
	c.from.mu.Lock()
	defer c.from.mu.Unlock()
	return c.frames()[seen:], c.from.arrived, c.stopped
}

// frames returns all of the capture. The caller holds the recorder's mutex.
func (c *Capture) frames() []*Frame {
	if c.stopped {
		return c.kept
	}
	c.from.drain()
	return c.from.frames[c.begin-c.from.first:]
}
