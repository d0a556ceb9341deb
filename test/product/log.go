// SPDX-License-Identifier: Apache-2.0

package product

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// Log collects what a process writes and can be waited for.
type Log struct {
	mu      sync.Mutex
	text    bytes.Buffer
	changed chan struct{} // closed by the next Write

	pipe  syscall.RawConn // nil without one
	ended chan struct{}   // closed when nobody has the pipe open for writing any more
}

// NewLog returns an empty log.
func NewLog() *Log { return &Log{changed: make(chan struct{})} }

// Pipe returns a file for a process to write to. What it has written when the log is read is in the log: by an
// io.Writer it would be some time later, though it may have told in another way by then what it had done.
func (l *Log) Pipe() (*os.File, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("make a pipe: %w", err)
	}
	if l.pipe, err = r.SyscallConn(); err != nil {
		return nil, errors.Join(fmt.Errorf("read from a pipe: %w", err), r.Close(), w.Close())
	}
	l.ended = make(chan struct{})
	go func() {
		defer close(l.ended)
		defer r.Close()
		_ = l.pipe.Read(func(fd uintptr) bool { return l.drain(fd, math.MaxInt) })
	}()
	return w, nil
}

// pipeSize is how much a pipe holds (pipe(7)).
const pipeSize = 64 << 10

// drain appends what a pipe holds, up to so many bytes, and tells whether that is its end.
func (l *Log) drain(fd uintptr, most int) (ended bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	var buffer [4096]byte
	for most > 0 {
		n, err := unix.Read(int(fd), buffer[:])
		switch {
		case err == unix.EINTR:
		case err != nil:
			return err != unix.EAGAIN
		case n == 0:
			return true
		default:
			l.append(buffer[:n])
			most -= n
		}
	}
	return false
}

// Write appends to the log.
func (l *Log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.append(p)
	return len(p), nil
}

func (l *Log) append(p []byte) {
	close(l.changed)
	l.changed = make(chan struct{})
	l.text.Write(p)
}

// String returns all that was written so far.
func (l *Log) String() string {
	text, _ := l.state()
	return text
}

func (l *Log) state() (string, <-chan struct{}) {
	if l.pipe != nil {
		_ = l.pipe.Control(func(fd uintptr) { l.drain(fd, pipeSize) }) // where it is closed all was read
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String(), l.changed
}

// Lines returns the lines that contain every one of the words.
func (l *Log) Lines(words ...string) []string {
	var found []string
	for line := range strings.Lines(l.String()) {
		if containsAll(line, words) {
			found = append(found, strings.TrimSuffix(line, "\n"))
		}
	}
	return found
}

func containsAll(line string, words []string) bool {
	for _, word := range words {
		if !strings.Contains(line, word) {
			return false
		}
	}
	return true
}

// Wait returns when at least n lines contain every one of the words.
func (l *Log) Wait(ctx context.Context, n int, words ...string) error {
	for {
		_, changed := l.state()
		found := len(l.Lines(words...))
		if found >= n {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("%d of %d lines with %q: %w", found, n, words, context.Cause(ctx))
		}
	}
}
