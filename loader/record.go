// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"log/slog"
	"maps"
	"time"

	"replypath/loader/identity"
	"replypath/loader/pins"
	"replypath/loader/problems"
	"replypath/loader/view"
	"replypath/metrics"
)

// record is what the loader writes down in the journal, and shows to who reads without waiting.
type record struct {
	journal   *pins.JournalMap
	state     pins.Journal
	gone      identity.Gone // of its records
	problems  *problems.List
	published view.Published
}

// save writes the journal.
func (r *record) save() error {
	r.state.Errors = r.problems.All()
	return r.journal.Write(&r.state)
}

func (r *record) saveOrLog(log *slog.Logger) {
	if err := r.save(); err != nil {
		log.Error("the status cannot be kept", "error", err)
	}
}

// Objects of host repairs, as the metrics name them.
const (
	repairNeighbour = "neighbour"
	repairProgram   = "program"
	repairRoute     = "route"
	repairSysctl    = "sysctl"
)

// counting returns what counts a repair of an object. It shows the count at once: who sees what was put back looks for it.
func (r *record) counting(object string) func() { return func() { r.countRepair(object) } }

func (r *record) countRepair(object string) {
	if r.state.Repairs == nil {
		r.state.Repairs = make(map[string]uint64)
	}
	r.state.Repairs[object]++
	r.published.Amend(func(v *view.View) { v.Repairs = maps.Clone(r.state.Repairs) })
}

// Snapshot reads every figure, see view.Published. Like Lacking, it does not wait for who changes the host.
func (l *Loader) Snapshot() (metrics.Samples, error) { return caught(l.log, l.published.Snapshot) }

// Lacking says what is not as the configuration has it.
func (l *Loader) Lacking() ([]string, error) { return caught(l.log, l.published.Lacking) }

// caught is problems.Caught for what returns a value, with a word about the stack.
func caught[T any](log *slog.Logger, read func() (T, error)) (value T, err error) {
	err = problems.Caught(func() (err error) {
		value, err = read()
		return err
	})
	problems.LogStack(log, err)
	return value, err
}

// Passed tells when Run went round last.
func (r *record) Passed() time.Time { return r.published.Passed() }

// Scopes of problems. SetError has those of its callers.
const (
	scopeHost      = "host"      // what went wrong in the last reconciliation
	scopeWarning   = "warning"   // what the configuration asks for in vain so far
	scopeNamespace = "namespace" // why there was no reconciliation
)
