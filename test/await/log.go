// SPDX-License-Identifier: Apache-2.0

package await

import (
	"bytes"
	"sync"
	"testing"
	"time"
)

// Log may be read, and waited for, while it is written. Its zero value is ready for use.
type Log struct {
	mu      sync.Mutex
	text    bytes.Buffer
	waiting []chan struct{} // closed by the next Write
}

func (l *Log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range l.waiting {
		close(c)
	}
	l.waiting = nil
	return l.text.Write(p)
}

func (l *Log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// Next returns what was written, and a channel that is closed when there is more.
func (l *Log) Next() (string, <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	more := make(chan struct{})
	l.waiting = append(l.waiting, more)
	return l.text.String(), more
}

// Receive returns what comes from a channel.
func Receive[T any](t testing.TB, from <-chan T) T {
	t.Helper()
	select {
	case v := <-from:
		return v
	case <-time.After(AnswerTime):
		t.Fatal("nothing happened in time")
		panic("unreachable")
	}
}
