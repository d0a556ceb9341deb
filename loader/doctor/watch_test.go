// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"testing"
	"time"
)

// TestWaitFor: an answer of a moment ago has to do, an old one does not, and before the first look nobody waits for long.
func TestWaitFor(t *testing.T) {
	for until, want := range map[time.Time]time.Duration{
		{}: shortWait, time.Now().Add(time.Minute): shortWait, time.Now(): shortWait, time.Now().Add(-2 * aged): longWait,
	} {
		if got := waitFor(time.Since(until)); got != want {
			t.Errorf("out of date since %s: %s, not %s", until, got, want)
		}
	}
}
