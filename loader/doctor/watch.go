// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"sync"
	"time"

	"replypath/loader/doctor/finding"
	"replypath/loader/problems"
)

// How old an answer of Watch may be: so many times as long as it took, within bounds.
const (
	restTimes         = 20
	freshest, longest = time.Second, 15 * time.Second
)

// Watch keeps what is wrong with a host for a while: many may ask, and an answer takes its time.
type Watch struct {
	pinDir string

	mu     sync.Mutex
	health finding.Health
	until  time.Time
}

// NewWatch returns one of the datapath of a pin directory.
func NewWatch(pinDir string) *Watch { return &Watch{pinDir: pinDir} }

// Health is what is wrong, as Status has it. What cannot be told is a finding as well. The network namespace has to be that of the
// whole process.
func (w *Watch) Health() finding.Health {
	w.mu.Lock()
	defer w.mu.Unlock()
	begun := time.Now()
	if begun.Before(w.until) {
		return w.health
	}
	s, err := Status(w.pinDir)
	if err == nil {
		w.health = s.Health
	} else {
		unknown := finding.Seen(finding.Warning, "", "the host could not be examined: "+problems.OneLine(err), "replypath doctor")
		unknown.Check = "facts"
		w.health = finding.HealthOf([]finding.Finding{unknown})
	}
	now := time.Now()
	w.until = now.Add(min(max(freshest, restTimes*now.Sub(begun)), longest))
	return w.health
}
