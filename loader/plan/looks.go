// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"context"
	"slices"
	"time"

	"replypath/loader/doctor/snapshot"
)

const (
	// mostRows bounds the rows of replies and, apart, those of what this host opened: others cannot push these out.
	mostRows = 4096
	// lookInterval is how often a host is looked at that is watched: it keeps what has ended for longer. lookRest bounds the
	// share of a processor that it takes.
	lookInterval = 5 * time.Second
	lookRest     = 20
)

// looks are what was seen at one look or more.
type looks struct {
	begun, at time.Time                               // of the first look and of the last
	rows      map[bool]map[snapshot.Key]*snapshot.Row // what would leave by another interface, by whether it was originated
	// incomplete tells that something that this host opened had no room, or was too much to look at.
	incomplete bool
	uses       []snapshot.Use // at the last look, what this host has open
	marks      []uint32       // at the last look, those that sockets give their packets
}

func newLooks() *looks {
	return &looks{rows: map[bool]map[snapshot.Key]*snapshot.Row{false: {}, true: {}}}
}

// row returns that of a key, which is new at a time; nil where there is no room for another.
func (l *looks) row(key snapshot.Key, at time.Time) *snapshot.Row {
	rows := l.rows[key.Originated]
	if rows[key] == nil && len(rows) >= mostRows {
		l.incomplete = l.incomplete || key.Originated
		return nil
	}
	if rows[key] == nil {
		rows[key] = &snapshot.Row{Key: key, FirstSeen: at, LastSeen: at}
	}
	return rows[key]
}

// add adds a look to what was seen before. Of what was there several times it keeps when there was most.
func (l *looks) add(look *looks) {
	if l.begun.IsZero() {
		l.begun = look.at
	}
	l.at, l.incomplete = look.at, l.incomplete || look.incomplete
	l.uses, l.marks = look.uses, look.marks
	for _, now := range look.list() {
		if r := l.row(now.Key, now.FirstSeen); r != nil {
			r.Flows, r.Packets, r.Bytes = max(r.Flows, now.Flows), max(r.Packets, now.Packets), max(r.Bytes, now.Bytes)
			if r.LastSeen = now.LastSeen; now.FirstSeen.Before(r.FirstSeen) {
				r.FirstSeen = now.FirstSeen
			}
		}
	}
}

// list returns the rows, those of most flows first.
func (l *looks) list() []snapshot.Row {
	var list []snapshot.Row
	for _, rows := range l.rows {
		for _, r := range rows {
			list = append(list, *r)
		}
	}
	slices.SortFunc(list, func(a, b snapshot.Row) int { return a.Compare(&b) })
	return list
}

// once adds another look. One that fails after the first leaves what is known incomplete.
func (l *looks) once(look func() (*looks, error)) error {
	next, err := look()
	switch {
	case err == nil:
		l.add(next)
	case l.begun.IsZero():
		return err
	default:
		l.incomplete = true
	}
	return nil
}

// watch looks once, and for as long as the options say, or until ctx ends.
func (l *looks) watch(ctx context.Context, o *Options, look func() (*looks, error)) error {
	for {
		begun := time.Now()
		if err := l.once(look); err != nil {
			return err
		}
		now := time.Now()
		left := o.Watch - now.Sub(l.begun)
		if left <= 0 {
			return nil
		}
		if o.Progress != nil {
			o.Progress(now.Sub(l.begun))
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(min(left, max(lookInterval, lookRest*now.Sub(begun)))):
		}
	}
}

// watched is for how long, 0 for a moment.
func (l *looks) watched() time.Duration { return l.at.Sub(l.begun) }
