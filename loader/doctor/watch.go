// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"math"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"

	"replypath/loader/doctor/finding"
	"replypath/loader/problems"
)

// How old an answer of Watch may be before it looks again: so many times as long as the last look took, within bounds.
const (
	restTimes         = 10
	failedRestTimes   = 2 // while something fails: its end is to be seen soon
	freshest, longest = time.Second, 2 * time.Minute
	firstLook         = 300 * time.Millisecond
	// shortWait is how long who asks waits for a look. Then the one before has to do, unless it is out of date for longer than aged:
	// that is waited for as long as longWait.
	shortWait, longWait, aged = 500 * time.Millisecond, 2 * time.Second, 5 * time.Second
)

// Watch keeps what is wrong with a host. Many may ask, and wait for the same look.
type Watch struct {
	pinDir string

	looks  singleflight.Group
	mu     sync.Mutex
	health finding.Health
	until  time.Time // then it looks again
}

// NewWatch returns one of the datapath of a pin directory, which has a first look once the start has its processors back.
func NewWatch(pinDir string) *Watch {
	w := &Watch{pinDir: pinDir, health: unknown("the first look is under way")}
	time.AfterFunc(firstLook, func() { w.Health() })
	return w
}

// Health is what is wrong, as Status has it. What cannot be told is a finding as well. The network namespace has to be that of the
// whole process.
func (w *Watch) Health() finding.Health {
	w.mu.Lock()
	isDue, wait := time.Now().After(w.until), waitFor(time.Since(w.until))
	w.mu.Unlock()
	if isDue {
		select {
		case <-w.looks.DoChan("", w.look):
		case <-time.After(wait):
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.health
}

// waitFor is how long a look is waited for where the one before is out of date for a while. Before the first that is forever.
func waitFor(outOfDate time.Duration) time.Duration {
	if outOfDate > aged && outOfDate < math.MaxInt64 {
		return longWait
	}
	return shortWait
}

func (w *Watch) look() (any, error) {
	begun := time.Now()
	health := examine(w.pinDir)
	now, times := time.Now(), time.Duration(restTimes)
	if health.State == finding.Failed {
		times = failedRestTimes
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.health, w.until = health, now.Add(min(max(freshest, times*now.Sub(begun)), longest))
	return nil, nil
}

func examine(pinDir string) finding.Health {
	s, err := Status(pinDir)
	if err == nil {
		return s.Health
	}
	return unknown(problems.OneLine(err))
}

// unknown is of a host that could not be examined, and why.
func unknown(why string) finding.Health {
	f := finding.Seen(finding.Warning, "", "the host could not be examined: "+why, "replypath doctor")
	f.Check = "facts"
	return finding.HealthOf([]finding.Finding{f})
}
