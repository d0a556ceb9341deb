// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"replypath/loader/status"
	"replypath/test/harness"
	"replypath/test/topology"
)

func TestCoalescer(t *testing.T) {
	c := newCoalescer()
	begin := time.Now()
	for _, test := range []struct{ at, due time.Duration }{
		{0, quiet},
		{10 * time.Millisecond, 10*time.Millisecond + quiet},
		{190 * time.Millisecond, patience},
		{400 * time.Millisecond, patience},
	} {
		if got := c.note(begin.Add(test.at)).Sub(begin); got != test.due {
			t.Errorf("a change after %v: due after %v, want %v", test.at, got, test.due)
		}
	}
	c.done(begin.Add(time.Second), time.Second)
	if got := c.note(begin.Add(time.Second)).Sub(begin); got != 2*time.Second {
		t.Errorf("after a long reconciliation: due after %v", got)
	}
	c.done(begin.Add(2*time.Second), time.Millisecond)
	if got := c.note(begin.Add(3 * time.Second)).Sub(begin); got != 3*time.Second+quiet {
		t.Errorf("after a rest: due after %v", got)
	}
}

// Maps of an earlier version, which lack one, are not taken for none: its programs
// are attached.
func TestMapsOfAnotherVersion(t *testing.T) {
	s := newS1(t, topology.S1Options{})
	b := newBed(t, s.B.Host)
	b.start(nil).stop()
	harness.Must(t, os.Remove(filepath.Join(b.dir, "maps", "sender")))
	b.inside(func() error {
		_, err := status.Read(b.dir)
		if err == nil || errors.Is(err, ErrNotAttached) || !strings.Contains(err.Error(), "restart the daemon") {
			t.Errorf("status: %v", err)
		}
		return nil
	})
}
