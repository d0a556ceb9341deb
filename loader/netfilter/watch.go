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
	generation uint32    // of the rules that were read last
	rest       time.Time // nothing is asked before
	known      []netip.Prefix
	err        error
}

// Begin reads the rules in the network namespace of the calling thread, about which it is asked until End. A kernel without
// nf_tables has none.
func (w *Watcher) Begin() {
	if w.tables, w.err = open(); w.err == nil {
		w.Look(time.Now())
	} else if lacksNFTables(w.err) {
		w.err = nil
	}
}

// End ends it.
func (w *Watcher) End() {
	if w.tables != nil {
		w.tables.close()
		w.tables = nil
	}
}

// Translated are the destinations that rules translate, as they were read last, at most MostTranslated. An error tells
// what could not be read, or that there are more.
func (w *Watcher) Translated() ([]netip.Prefix, error) { return w.known, w.err }

var errTooMany = errors.New("firewall rules translate more addresses than are served: name their networks in `addresses`")

// Look reads the rules if they are others than before, and tells whether Translated returns something else since. The kernel
// is asked for their generation: events would cost those who write many rules, as it writes a listener a message for each
// (nf_tables_commit() in net/netfilter/nf_tables_api.c). What cannot be read stays as it was, and is read again.
func (w *Watcher) Look(now time.Time) (changed bool) {
	if w.tables == nil || now.Before(w.rest) {
		return false
	}
	begun := time.Now()
	defer func() { w.rest = now.Add((1 + restFactor) * time.Since(begun)) }()
	var translated []netip.Prefix
	isNew := true
	err := problems.Caught(func() (err error) {
		translated, isNew, err = w.read()
		return err
	})
	switch {
	case lacksNFTables(err) || err == nil && !isNew:
		return false
	case err != nil:
		translated, w.generation = w.known, 0
	case len(translated) > MostTranslated:
		translated, err = translated[:MostTranslated], errTooMany
	}
	changed = !slices.Equal(w.known, translated) || fmt.Sprint(err) != fmt.Sprint(w.err)
	w.known, w.err = translated, err
	return changed
}

// read reads the rules, unless they are those that were read last.
func (w *Watcher) read() (translated []netip.Prefix, isNew bool, err error) {
	generation, err := w.tables.generation()
	var rules Ruleset
	for n := 0; n < mostReadings && err == nil && generation != w.generation; n++ {
		isNew, rules, w.generation = true, Ruleset{}, generation
		if err = (&reader{nfTables: w.tables}).read(&rules); err == nil {
			generation, err = w.tables.generation()
		}
	}
	return rules.Translated, isNew, err
}
