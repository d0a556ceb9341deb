// SPDX-License-Identifier: Apache-2.0

package netfilter

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"
)

const (
	// pollEvery is how often the kernel is asked whether rules have changed. Events would cost those who write many: a
	// listener has the kernel write a message for each rule (nf_tables_commit() in net/netfilter/nf_tables_api.c).
	pollEvery = 250 * time.Millisecond
	// restFactor bounds the share of time that goes into reading large sets of rules that change all the time.
	restFactor = 10
	// mostReadings is how often rules are read that change meanwhile: what was read before and after need not fit together.
	mostReadings = 3
)

// Watcher knows which destinations the rules of a network namespace translate. The zero value knows of none.
type Watcher struct {
	tables     *nfTables
	generation uint32 // of the rules that were read last
	changed    chan struct{}
	end        chan struct{}
	done       sync.WaitGroup

	mu    sync.Mutex
	known []netip.Prefix
	err   error
}

// Begin reads the rules in the network namespace of the calling thread, and follows them until End. A kernel without
// nf_tables has none.
func (w *Watcher) Begin() {
	w.changed, w.end = make(chan struct{}, 1), make(chan struct{})
	if w.tables, w.err = open(); w.err == nil {
		w.look()
		w.done.Go(w.follow)
	} else if lacksNFTables(w.err) {
		w.err = nil
	}
}

// End ends it.
func (w *Watcher) End() {
	if w.tables == nil {
		return
	}
	close(w.end)
	w.done.Wait()
	w.tables.close()
	w.tables = nil
}

// Changed has something in it when Translated returns something else than before.
func (w *Watcher) Changed() <-chan struct{} { return w.changed }

// Translated are the destinations that rules translate, as they were read last, at most MostTranslated. An error tells
// what could not be read, or that there are more.
func (w *Watcher) Translated() ([]netip.Prefix, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.known, w.err
}

// follow reads the rules once they have changed.
func (w *Watcher) follow() {
	wait := pollEvery
	for {
		select {
		case <-w.end:
			return
		case <-time.After(wait):
		}
		begun := time.Now()
		if w.look() {
			select {
			case w.changed <- struct{}{}:
			default:
			}
		}
		wait = max(pollEvery, restFactor*time.Since(begun))
	}
}

// look reads the rules if they are others than before, and tells whether that makes a difference.
func (w *Watcher) look() bool {
	var rules Ruleset
	for n := range mostReadings {
		generation, err := w.tables.generation()
		switch {
		case lacksNFTables(err):
			return false
		case err != nil:
			return w.note(nil, err)
		case generation == w.generation && n == 0:
			return false
		case generation == w.generation:
			return w.note(rules.Translated, nil)
		}
		rules = Ruleset{}
		if err := (&reader{nfTables: w.tables}).read(&rules); err != nil {
			return w.note(nil, err)
		}
		w.generation = generation
	}
	return w.note(rules.Translated, nil)
}

var errTooMany = errors.New("firewall rules translate more addresses than are served: name their networks in `addresses`")

// note takes over what was read. With an error that is nothing, and it is read again.
func (w *Watcher) note(translated []netip.Prefix, err error) (changed bool) {
	if len(translated) > MostTranslated {
		translated, err = translated[:MostTranslated], errTooMany
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if translated == nil && err != nil {
		translated, w.generation = w.known, 0
	}
	changed = !slices.Equal(w.known, translated) || fmt.Sprint(err) != fmt.Sprint(w.err)
	w.known, w.err = translated, err
	return changed
}
