// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"replypath/loader/doctor/snapshot"
	"replypath/test/await"
	"replypath/test/testhost"
)

var epoch = time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)

// replies is a flow of a peer, that was begun so long before the epoch.
func replies(peer string, id uint64, begun time.Duration, packets uint64) conversation {
	return conversation{
		Key: snapshot.Key{
			Self: testhost.Address("10.4.0.100"), SelfPort: 5432, Protocol: "tcp", Peer: snapshot.NetworkOf(netip.MustParseAddr(peer)),
			FromInterface: "eth0", ToInterface: "eth1",
		},
		id: id, begun: epoch.Add(-begun), sent: packets, bytes: 10 * packets,
	}
}

// opens is what the host opened.
func opens(peer string, id, packets uint64) conversation {
	c := replies(peer, id, 0, packets)
	c.Originated, c.begun, c.PeerPort = true, time.Time{}, 443
	return c
}

// see has conversations be there at a time after the epoch.
func see(l *looks, after time.Duration, seen ...conversation) {
	l.begin(epoch.Add(after))
	for _, c := range seen {
		l.add(&c)
	}
}

func want(t *testing.T, l *looks, lines ...string) {
	t.Helper()
	var got []string
	for _, r := range l.list() {
		got = append(got, fmt.Sprintf("%s flows %d packets %d bytes %d from %v to %v", r.Peer, r.Flows, r.Packets, r.Bytes, r.FirstSeen.Sub(epoch), r.LastSeen.Sub(epoch)))
	}
	await.Same(t, "rows", strings.Join(lines, "\n"), strings.Join(got, "\n"))
}

// TestLooks: a conversation counts once however often it is seen, or missed for a while, and what it sends counts as it goes on.
func TestLooks(t *testing.T) {
	l := newLooks()
	see(l, 0, replies("10.9.0.1", 1, time.Hour, 100), replies("10.9.0.2", 2, time.Minute, 5), opens("2001:db8::1", 3, 5))
	want(t, l,
		"10.9.0.0/24 flows 2 packets 105 bytes 1050 from -1h0m0s to 0s",
		"2001:db8::/64 flows 1 packets 5 bytes 50 from 0s to 0s")
	see(l, time.Minute, replies("10.9.0.1", 1, time.Hour, 130), replies("10.9.0.3", 4, -30*time.Second, 2))
	want(t, l,
		"10.9.0.0/24 flows 3 packets 137 bytes 1370 from -1h0m0s to 1m0s",
		"2001:db8::/64 flows 1 packets 5 bytes 50 from 0s to 0s")
	// What cannot be counted this time is not counted again, and the same tuple may be another flow.
	see(l, 2*time.Minute, replies("10.9.0.1", 1, time.Hour, 0), opens("2001:db8::1", 3, 7))
	see(l, 3*time.Minute, replies("10.9.0.1", 1, -2*time.Minute-2*time.Second, 3), opens("2001:db8::1", 3, 7))
	want(t, l,
		"10.9.0.0/24 flows 4 packets 140 bytes 1400 from -1h0m0s to 3m0s",
		"2001:db8::/64 flows 1 packets 7 bytes 70 from 0s to 3m0s")
	for n := range mostMissed + 1 {
		see(l, time.Duration(4+n)*time.Minute)
	}
	await.Same(t, "conversations that ended and are remembered", 0, len(l.sent))
}

// TestLooksAreBounded: rows of replies do not push out what the host opened, and what has no room of that is known to lack.
// Of more flows than are remembered each counts once all the same.
func TestLooksAreBounded(t *testing.T) {
	l, peer := newLooks(), testhost.Address("10.0.0.1")
	var many []conversation
	for n := range mostRows + 1 {
		peer = netip.AddrFrom4([4]byte{10, byte(n >> 8), byte(n), 1})
		many = append(many, replies(peer.String(), uint64(n), 0, 0))
	}
	see(l, 0, append(many, opens("10.9.0.1", mostRows+1, 0))...)
	if last := l.list()[mostRows]; len(l.rows) != mostRows+1 || l.incomplete || l.rows[opens("10.9.0.1", 0, 0).Key] == nil {
		t.Errorf("%d rows, incomplete: %v, last %+v", len(l.rows), l.incomplete, last)
	}
	for n := range many {
		many[n].Originated = true
	}
	if see(l, time.Minute, many...); !l.incomplete {
		t.Error("it is not known that something is left out")
	}

	l = newLooks()
	for range 3 {
		l.begin(epoch.Add(time.Duration(l.number) * time.Minute))
		for n := range uint64(mostRemembered + 5) {
			c := replies("10.9.0.1", n, time.Second, 0)
			l.add(&c)
		}
	}
	await.Same(t, "flows", uint64(mostRemembered+5), l.list()[0].Flows)
	await.Same(t, "remembered", mostRemembered, len(l.sent))
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
				err := l.watch(ctx, &Options{Watch: test.watch}, func() error {
					if l.begin(time.Now()); int(l.number) == test.fails {
						return errors.New("no tables")
					}
					return nil
				})
				if int(l.number) != test.looks || l.watched() != test.watched || l.incomplete != (test.fails > 1) || (err != nil) != (test.fails == 1) {
					t.Errorf("%d looks in %s, incomplete: %v, %v", l.number, l.watched(), l.incomplete, err)
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
