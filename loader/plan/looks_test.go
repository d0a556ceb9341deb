// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"replypath/loader/doctor/snapshot"
	"replypath/test/await"
	"replypath/test/testhost"
)

var epoch = time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)

// aLook has rows of own addresses with so many flows, at a time after the epoch.
func aLook(after time.Duration, flows map[string]uint64) *looks {
	l := newLooks()
	l.at = epoch.Add(after)
	for self, n := range flows {
		key := snapshot.Key{Self: testhost.Address(self), Originated: self == opener, Peer: testhost.Prefix("10.9.0.0/24")}
		r := l.row(key, l.at)
		r.Flows, r.Packets = n, snapshot.Count(10*n)
	}
	return l
}

// opener is the own address that this host opened from.
const opener = "10.4.0.100"

// TestLooks: of several looks there is what was seen at any, and of each row when it was most.
func TestLooks(t *testing.T) {
	l := newLooks()
	for n, flows := range []map[string]uint64{{opener: 2, "10.4.0.1": 5}, {opener: 3}, {"10.4.0.1": 4, "10.4.0.2": 1}} {
		l.add(aLook(time.Duration(n)*time.Minute, flows))
	}
	var got []string
	for _, r := range l.list() {
		got = append(got, fmt.Sprintf("%s originated %v flows %d packets %d from %v to %v", r.Self, r.Originated, r.Flows, r.Packets, r.FirstSeen.Sub(epoch), r.LastSeen.Sub(epoch)))
	}
	await.Same(t, "rows", []string{
		"10.4.0.1 originated false flows 5 packets 50 from 0s to 2m0s",
		"10.4.0.100 originated true flows 3 packets 30 from 0s to 1m0s",
		"10.4.0.2 originated false flows 1 packets 10 from 2m0s to 2m0s",
	}, got)
	if l.watched() != 2*time.Minute || l.incomplete {
		t.Errorf("watched for %s, incomplete: %v", l.watched(), l.incomplete)
	}
}

// TestLooksAreBounded: rows of replies do not push out what the host opened, and what has no room of that is known to lack.
func TestLooksAreBounded(t *testing.T) {
	full := func(isOriginated bool) *looks {
		l, self := newLooks(), testhost.Address("10.0.0.1")
		for range mostRows {
			self = self.Next()
			l.row(snapshot.Key{Self: self, Originated: isOriginated}, epoch)
		}
		l.add(aLook(0, map[string]uint64{opener: 1, "10.9.0.1": 1}))
		return l
	}
	if l := full(false); len(l.rows[false]) != mostRows || len(l.rows[true]) != 1 || l.incomplete {
		t.Errorf("%d rows of replies, %d of what was opened, incomplete: %v", len(l.rows[false]), len(l.rows[true]), l.incomplete)
	}
	if l := full(true); len(l.rows[true]) != mostRows || !l.incomplete {
		t.Errorf("%d rows of what was opened, incomplete: %v", len(l.rows[true]), l.incomplete)
	}
}

// TestWatch: it looks at once, then every few seconds, and at the end; it ends when it is told to. Only the first look has to succeed.
func TestWatch(t *testing.T) {
	for name, test := range map[string]struct {
		watch, interrupted time.Duration
		fails              int // this look
		looks              int
		watched            time.Duration
	}{
		"a moment":           {0, time.Hour, 0, 1, 0},
		"a while":            {time.Minute, time.Hour, 0, 13, time.Minute},
		"not to the end":     {time.Hour, 12 * time.Second, 0, 3, 10 * time.Second},
		"a look fails":       {12 * time.Second, time.Hour, 2, 4, 12 * time.Second},
		"the first one does": {time.Minute, time.Hour, 1, 1, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), test.interrupted)
				defer cancel()
				l := newLooks()
				number := 0
				err := l.watch(ctx, &Options{Watch: test.watch}, func() (*looks, error) {
					if number++; number == test.fails {
						return nil, errors.New("no tables")
					}
					return &looks{at: time.Now()}, nil
				})
				if number != test.looks || l.watched() != test.watched || l.incomplete != (test.fails > 1) || (err != nil) != (test.fails == 1) {
					t.Errorf("%d looks in %s, incomplete: %v, %v", number, l.watched(), l.incomplete, err)
				}
			})
		})
	}
}

func TestCountInJSON(t *testing.T) {
	for count, want := range map[snapshot.Count]string{0: "null", 7: "7"} {
		text, err := count.MarshalJSON()
		await.Must(t, err)
		await.Same(t, "count", want, string(text))
	}
}
