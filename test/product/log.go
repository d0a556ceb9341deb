// SPDX-License-Identifier: Apache-2.0

package product

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"replypath/test/await"
)

// Log collects what a process writes and can be waited for.
type Log struct {
	await.Log

	draining sync.Mutex
	pipe     syscall.RawConn // nil without one
	ended    chan struct{}   // closed when nobody has the pipe open for writing any more
}

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
	l.draining.Lock()
	defer l.draining.Unlock()
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
			_, _ = l.Write(buffer[:n]) // which cannot fail
			most -= n
		}
	}
	return false
}

// String returns all that was written so far.
func (l *Log) String() string {
	text, _ := l.Next()
	return text
}

// Next returns all that was written so far, and a channel that is closed when there is more.
func (l *Log) Next() (string, <-chan struct{}) {
	if l.pipe != nil {
		_ = l.pipe.Control(func(fd uintptr) { l.drain(fd, pipeSize) }) // where it is closed all was read
	}
	return l.Log.Next()
}

// Lines returns the lines that contain every one of the words.
func (l *Log) Lines(words ...string) []string {
	var found []string
	for line := range strings.Lines(l.String()) {
		lacks := func(word string) bool { return !strings.Contains(line, word) }
		if !slices.ContainsFunc(words, lacks) {
			found = append(found, strings.TrimSuffix(line, "\n"))
		}
	}
	return found
}

// Wait returns when at least n lines contain every one of the words.
func (l *Log) Wait(ctx context.Context, n int, words ...string) error {
	for {
		_, changed := l.Next()
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
