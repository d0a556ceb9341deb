// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"fmt"
	"time"

	"replypath/loader/config"
	"replypath/loader/discover"
	"replypath/loader/doctor/finding"
	"replypath/loader/doctor/snapshot"
	"replypath/loader/history"
	"replypath/loader/pins"
)

// planner makes a plan from what was read.
type planner struct {
	*snapshot.Host
	journal    *pins.Journal // nil: nothing is pinned
	history    *history.History
	historyErr error
	rows       []history.Row     // all that there are
	marks      []uint32          // of sockets
	blocked    []finding.Finding // what keeps replypath from enforcing
}

// enforcesAll tells whether every managed interface is enforced.
func (p *planner) enforcesAll() bool {
	for _, i := range p.Interfaces {
		if !p.Enforcing[i.Index] {
			return false
		}
	}
	return p.Attached
}

// leavesBySource tells whether the strong host model sends what a row has.
func (p *planner) leavesBySource(i *discover.Interface, r *history.Row) bool {
	protocol, err := config.Protocol(r.Protocol)
	return err == nil && p.LeavesBySource(i, r.Self, protocol)
}

// goesRelated tells whether what a row has goes as answers to its peers go.
func (p *planner) goesRelated(r *history.Row) bool {
	protocol, err := config.Protocol(r.Protocol)
	return err == nil && p.GoesRelated(r.Related, protocol)
}

// watched says for how long it was looked.
func (p *planner) watched() string {
	if text := Shortly(p.history.Watched); text != "" {
		return "in the " + text + " watched"
	}
	return "now"
}

// Shortly is a duration in its largest unit, "" for less than a second.
func Shortly(d time.Duration) string {
	for _, unit := range []struct {
		length time.Duration
		name   string
	}{{24 * time.Hour, "d"}, {time.Hour, "h"}, {time.Minute, "min"}, {time.Second, "s"}} {
		if n := d / unit.length; n > 0 {
			return fmt.Sprintf("%d %s", n, unit.name)
		}
	}
	return ""
}

// counted is a number with its noun.
func counted(n int, one, more string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, more)
}
