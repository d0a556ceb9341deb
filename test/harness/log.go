package harness

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"sync"
)

// Log collects what a process writes and can be waited for.
type Log struct {
	mu      sync.Mutex
	text    bytes.Buffer
	changed chan struct{} // closed by the next Write
}

// NewLog returns an empty log.
func NewLog() *Log { return &Log{changed: make(chan struct{})} }

// Write appends to the log.
func (l *Log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	close(l.changed)
	l.changed = make(chan struct{})
	return l.text.Write(p)
}

// String returns all that was written so far.
func (l *Log) String() string {
	text, _ := l.state()
	return text
}

func (l *Log) state() (string, <-chan struct{}) {
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
