// SPDX-License-Identifier: Apache-2.0

package netfilter

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"replypath/loader/problems"
)

const (
	// restFactor bounds the share of time that goes into reading large sets of rules that change all the time.
	restFactor = 30
	// mostReadings is how often rules are read that change meanwhile: what was read before and after need not fit together.
	mostReadings = 3
)

// Watcher knows which destinations the rules of a network namespace translate. The zero value knows of none.
type Watcher struct {
	tables     *nfTables
	reading    chan reading // of what is going on; nil: nothing is
	generation uint32       // of the rules that were read last
	rest       time.Time    // nothing is asked before
	known      []netip.Prefix
	err        error
}

// Begin reads the rules in the network namespace of the calling thread, about which it is asked until End. A kernel without
// nf_tables has none.
func (w *Watcher) Begin() {
	if w.tables, w.err = open(); w.err == nil {
		if w.Look(time.Now()); w.reading != nil {
			w.note(<-w.reading)
		}
	} else if lacksNFTables(w.err) {
		w.err = nil
	}
}

// End ends it.
func (w *Watcher) End() {
	if w.reading != nil {
		<-w.reading
	}
	if w.tables != nil {
		w.tables.close()
		w.tables = nil
	}
}

// Translated are the destinations that rules translate, as they were read last, at most MostTranslated. An error tells
// what could not be read, or that there are more.
func (w *Watcher) Translated() ([]netip.Prefix, error) { return w.known, w.err }

var errTooMany = errors.New("firewall rules translate more addresses than are served: name their networks in `addresses`")

// Look has the rules read if they are others than before, beside the caller, and tells whether Translated returns something else
// since a reading that has ended. The kernel is asked for their generation: events would cost those who write many rules, as it
// writes a listener a message for each (nf_tables_commit() in net/netfilter/nf_tables_api.c). What cannot be read stays as it was,
// and is read again.
func (w *Watcher) Look(now time.Time) (changed bool) {
	if w.reading != nil {
		select {
		case r := <-w.reading:
			return w.note(r)
		default:
			return false
		}
	}
	if w.tables == nil || now.Before(w.rest) {
		return false
	}
	var generation uint32
	err := problems.Caught(func() (err error) {
		generation, err = w.tables.generation()
		return err
	})
	if lacksNFTables(err) || err == nil && generation == w.generation {
		return false
	}
	w.reading = make(chan reading, 1)
	go func(tables *nfTables, begun time.Time) {
		r := reading{err: err}
		if err == nil {
			r.err = problems.Caught(func() error { return r.read(tables, generation) })
		}
		r.rest = now.Add((1 + restFactor) * time.Since(begun))
		w.reading <- r
	}(w.tables, time.Now())
	return false
}

// Reads tells whether a reading goes on, whose end Look notes.
func (w *Watcher) Reads() bool { return w.reading != nil }

// note takes what was read.
func (w *Watcher) note(r reading) (changed bool) {
	w.reading, w.rest, w.generation = nil, r.rest, r.generation
	switch {
	case r.err != nil:
		r.translated, w.generation = w.known, 0
	case len(r.translated) > MostTranslated:
		r.translated, r.err = r.translated[:MostTranslated], errTooMany
	}
	changed = !slices.Equal(w.known, r.translated) || fmt.Sprint(r.err) != fmt.Sprint(w.err)
	w.known, w.err = r.translated, r.err
	return changed
}

// reading is what was read once.
type reading struct {
	generation uint32
	translated []netip.Prefix
	err        error
	rest       time.Time
}

// read reads the rules of a generation, and again where they change meanwhile.
func (r *reading) read(tables *nfTables, generation uint32) (err error) {
	for n := 0; n < mostReadings && err == nil && generation != r.generation; n++ {
		var rules Ruleset
		r.generation = generation
		if err = (&reader{nfTables: tables}).read(&rules); err == nil {
			r.translated = rules.Translated
			generation, err = tables.generation()
		}
	}
	return err
}
