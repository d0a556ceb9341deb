package flows

import (
	"fmt"

	"replypath/bpf"
	"replypath/loader/datapath"
)

// Entry is what a flow table holds, as the programs read it.
type Entry struct {
	Flow
	Raw  bpf.DatapathFlow
	Idle bool // the programs take it for none
}

// Entries returns the flows whose tuple matches, idle ones included, in no
// particular order.
func (t *Table) Entries(matches func(*bpf.DatapathTuple) bool) ([]Entry, error) {
	v, err := t.newView()
	if err != nil {
		return nil, err
	}
	var entries []Entry
	for _, s := range states(t.maps) {
		err := datapath.EachFlow(s.table, func(_ uint64, raw *bpf.DatapathFlow) bool {
			if matches(&raw.Tuple) && !isStray(raw) {
				entries = append(entries, v.entry(raw, s.state))
			}
			return true
		})
		if err != nil {
			return nil, fmt.Errorf("%s: %w", s.state, err)
		}
	}
	return entries, nil
}

// Lookup is Entries for one tuple, which is found without looking through the
// tables. The seeds are those that the tables were filled with.
func (t *Table) Lookup(tuple bpf.DatapathTuple, seeds bpf.Seeds) ([]Entry, error) {
	v, err := t.newView()
	if err != nil {
		return nil, err
	}
	digest := seeds.Digest(tuple)
	var entries []Entry
	for _, s := range states(t.maps) {
		raw, err := datapath.FindFlow(s.table, digest)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", s.state, err)
		}
		if raw != nil && raw.Tuple == tuple && !isStray(raw) {
			entries = append(entries, v.entry(raw, s.state))
		}
	}
	return entries, nil
}

func (v *view) entry(raw *bpf.DatapathFlow, state string) Entry {
	return Entry{Flow: v.flow(raw, state), Raw: *raw, Idle: isIdle(raw, state, v.clock)}
}
