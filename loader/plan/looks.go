// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"context"
	"maps"
	"slices"
	"time"

	"replypath/loader/doctor/snapshot"
)

const (
	// mostRows bounds the rows of replies and, apart, those of what this host opened: others cannot push these out.
	mostRows = 10000
	// slack is more than the begins of a flow differ by that are told at different times.
	slack = time.Second
	// lookInterval is how often a host is looked at that is watched: it keeps what has ended for longer. lookRest bounds the
	// share of a processor that it takes.
	lookInterval = 5 * time.Second
	lookRest     = 20
	// A conversation is remembered while few looks miss it: what ended looks the same. Many are not remembered at all.
	mostMissed     = 10
	mostRemembered = 1 << 17
)

// looks add up what was seen at one look or more. They are for one goroutine.
type looks struct {
	begun, at, before time.Time // of the first look, the last one, and the one before, which is zero for none
	number            int32     // of the last one
	// incomplete tells that something that this host opened had no room, or was too much to look at.
	incomplete bool

	rows map[snapshot.Key]*snapshot.Row
	// replies is how many of them are rows of replies.
	replies int
	sent    map[uint64]count // of the conversations that were there lately, by their id
	isFull  bool             // some of these had no room
}

// count is what a conversation had sent at a look, 0 where it was not counted.
type count struct {
	packets, bytes uint64
	look           int32
}

// conversation is a flow, or what the host opened.
type conversation struct {
	snapshot.Key
	id          uint64    // what tells it from others, a digest
	begun       time.Time // zero: not known
	sent, bytes uint64    // packets, and bytes of payload; 0: not counted
}

func newLooks() *looks {
	return &looks{rows: map[snapshot.Key]*snapshot.Row{}, sent: map[uint64]count{}}
}

func (l *looks) begin(at time.Time) {
	if l.before, l.at = l.at, at; l.begun.IsZero() {
		l.begun = at
	}
	l.number++
	maps.DeleteFunc(l.sent, func(_ uint64, c count) bool { return l.number-c.look > mostMissed })
}

// add counts a conversation once, and what it sent since it was seen last.
func (l *looks) add(c *conversation) {
	r := l.row(c)
	if r == nil {
		return
	}
	known, isKnown := l.sent[c.id]
	isLater := c.begun.After(l.before.Add(slack)) && known.look != l.number
	if isKnown && isLater { // another one by the same tuple
		known, isKnown = count{}, false
	}
	wasThere := l.isFull && !l.before.IsZero() && !c.begun.IsZero() && !isLater
	if !isKnown && !wasThere {
		r.Flows++
	}
	// A socket that could not be asked this time takes nothing back.
	now := count{max(known.packets, c.sent), max(known.bytes, c.bytes), l.number}
	if !wasThere {
		r.Packets += snapshot.Count(now.packets - known.packets)
		r.Bytes += snapshot.Count(now.bytes - known.bytes)
	}
	if l.isFull = l.isFull || !isKnown && len(l.sent) >= mostRemembered; isKnown || len(l.sent) < mostRemembered {
		l.sent[c.id] = now
	}
	r.LastSeen = l.at
}

// row returns that of a conversation, nil where there is no room for another.
func (l *looks) row(c *conversation) *snapshot.Row {
	r := l.rows[c.Key]
	switch {
	case r != nil:
	case c.Originated && len(l.rows)-l.replies >= mostRows:
		l.incomplete = true
		return nil
	case !c.Originated && l.replies >= mostRows:
		return nil
	default:
		r = &snapshot.Row{Key: c.Key, FirstSeen: l.at}
		l.rows[c.Key] = r
		if !c.Originated {
			l.replies++
		}
	}
	if !c.begun.IsZero() && c.begun.Before(r.FirstSeen) {
		r.FirstSeen = c.begun
	}
	return r
}

// list returns the rows, those of most flows first.
func (l *looks) list() []snapshot.Row {
	list := make([]snapshot.Row, 0, len(l.rows))
	for _, r := range l.rows {
		list = append(list, *r)
	}
	slices.SortFunc(list, func(a, b snapshot.Row) int { return a.Compare(&b) })
	return list
}

// watch looks once, and for as long as the options say, or until ctx ends. A look that fails after the first leaves what is known
// incomplete.
func (l *looks) watch(ctx context.Context, o *Options, look func() error) error {
	if err := look(); err != nil {
		return err
	}
	end := l.begun.Add(o.Watch)
	for now := time.Now(); now.Before(end); now = time.Now() {
		if o.Progress != nil {
			o.Progress(now.Sub(l.begun))
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(min(end.Sub(now), max(lookInterval, lookRest*now.Sub(l.at)))):
		}
		if err := look(); err != nil {
			l.incomplete = true
		}
	}
	return nil
}

// watched is for how long, 0 for a moment.
func (l *looks) watched() time.Duration { return l.at.Sub(l.begun) }
