// SPDX-License-Identifier: Apache-2.0

package soak

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"replypath/test/harness"
	"replypath/test/topology"
)

// absence is a time in which some askers have no way, so that they ask again.
type absence struct {
	event    string
	concerns func(*asker) bool
	from, to time.Time
}

// leave says that some askers have no way from now on.
func (l *load) leave(event string, concerns func(*asker) bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.absences = append(l.absences, absence{event, concerns, time.Now(), forever})
}

// comeBack says that they have one again.
func (l *load) comeBack() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.absences[len(l.absences)-1].to = time.Now()
}

// repeat counts how often a question was repeated that was begun at a time and has an end now,
// for the event that explains it where one does.
func (l *load) repeat(a *asker, begun time.Time, repeated int) {
	if repeated == 0 {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	for _, one := range l.absences {
		if one.concerns(a) && one.from.Before(now) && begun.Before(one.to) {
			l.explained[one.event] += repeated
			return
		}
	}
	l.repeated += repeated
}

// bridge looks at some askers while a fault lasts.
type bridge struct {
	askers []*asker
	before []int64                  // how often each had been answered
	pauses map[string]time.Duration // the longest between two answers, by kind
}

// bridge begins to look at what asks at the addresses of some of the server's interfaces.
func (l *load) bridge(nics ...*topology.Interface) *bridge {
	b := &bridge{pauses: make(map[string]time.Duration)}
	for _, a := range l.askers {
		if slices.ContainsFunc(nics, a.asks) {
			b.askers, b.before = append(b.askers, a), append(b.before, a.answered.Load())
		}
	}
	return b
}

// asks tells whether it asks at an interface.
func (a *asker) asks(nic *topology.Interface) bool {
	return nic.Address(topology.FamilyOf(a.to)) == a.to
}

// await returns when each has been answered so many times more, to questions that it has asked
// since.
func (b *bridge) await(t *testing.T, more int64) {
	t.Helper()
	enough := make([]int64, len(b.askers))
	for i, a := range b.askers {
		enough[i] = a.answered.Load() + 1 + more // one may be under way
	}
	for i, a := range b.askers {
		harness.Eventually(t, fmt.Sprintf("%s to %s goes on", a.what, a.to), func() error {
			b.look()
			if missing := enough[i] - a.answered.Load(); missing > 0 {
				return fmt.Errorf("%d answers are missing", missing)
			}
			return nil
		})
	}
}

// look measures for how long they have waited.
func (b *bridge) look() {
	for _, a := range b.askers {
		b.pauses[a.what] = max(b.pauses[a.what], time.Since(time.Unix(0, a.last.Load())))
	}
}

// answers returns how many there were.
func (b *bridge) answers() (sum int64) {
	for i, a := range b.askers {
		sum += a.answered.Load() - b.before[i]
	}
	return sum
}
