// SPDX-License-Identifier: Apache-2.0

// Package await is how tests wait, and fail.
package await

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// PatienceVariable holds a factor for all times that tests wait, for machines that are slow by nature, such as an
// emulated one.
const PatienceVariable = "REPLYPATH_TEST_PATIENCE"

// poll is the pause after a question that costs little, slowPoll after one that starts a process.
const (
	Poll     = 2 * time.Millisecond
	slowPoll = 50 * time.Millisecond
)

var (
	// AnswerTime is enough for whatever comes at all, on a busy machine.
	AnswerTime = 10 * time.Second * patience()
	// StartTime is enough for the daemon to get ready, or ready again with maps of another size: the verifier alone
	// takes most of a second of processor time, and two tests, their load and the machine's neighbours share two
	// processors.
	StartTime = 6 * AnswerTime
	// SilenceTime is how long what was seen on its wrong way has to arrive, which it must not.
	SilenceTime = 50 * time.Millisecond * patience()
)

// Patient is a time that a test demands, on a machine that may be slow by nature.
func Patient(d time.Duration) time.Duration { return d * patience() }

// patience is the factor, 1 where there is none.
func patience() time.Duration {
	factor, err := strconv.Atoi(os.Getenv(PatienceVariable))
	if err != nil || factor < 1 {
		return 1
	}
	return time.Duration(factor)
}

// Within returns a context that ends after d or with the test.
func Within(t testing.TB, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

// Eventually asks until the answer is nil, and fails the test with the last one if that takes longer than AnswerTime.
// It is for what sends no event. What costs little is asked every two milliseconds, what costs more the less often: the
// processors are there for what is tested.
func Eventually(t testing.TB, what string, missing func() error) {
	t.Helper()
	EventuallyWithin(t, AnswerTime, what, missing)
}

// EventuallyWithin is Eventually for what is to take another time.
func EventuallyWithin(t testing.TB, within time.Duration, what string, missing func() error) {
	t.Helper()
	deadline := time.Now().Add(within)
	for {
		asked := time.Now()
		err := missing()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %s: %v", what, within, err)
		}
		time.Sleep(min(max(Poll, 4*time.Since(asked)), slowPoll))
	}
}

// Becomes waits until a value, of which it says what it is, is the one that is wanted.
func Becomes[T any](t testing.TB, what string, want T, read func() T) {
	t.Helper()
	Eventually(t, what, func() error {
		if got := read(); !cmp.Equal(want, got, byValue) {
			return fmt.Errorf("%v, not %v", got, want)
		}
		return nil
	})
}

// Must fails the test at once if there is an error.
func Must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// Must1 is Must for a function that returns a value as well: Must1[int](t)(f()).
func Must1[T any](t testing.TB) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		Must(t, err)
		return v
	}
}

// byValue are types of which cmp sees no fields.
var byValue = cmpopts.EquateComparable(netip.Addr{}, netip.AddrPort{}, netip.Prefix{})

// Same reports how a value, of which it says what it is, differs from the one that is wanted.
func Same[T any](t testing.TB, what string, want, got T, options ...cmp.Option) {
	t.Helper()
	if diff := cmp.Diff(want, got, append(options, byValue)...); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

// Says reports which words are missing in a text, of which it says what it is.
func Says(t testing.TB, what, text string, words ...string) {
	t.Helper()
	for _, word := range words {
		if !strings.Contains(text, word) {
			t.Errorf("%s: %q is missing in:\n%s", what, word, text)
		}
	}
}

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
