// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"testing"

	"replypath/bpf"
)

// TestTableOutboundUnanswered: a note that nobody answered, as a scan leaves many,
// makes room before one that has been, however old that is.
func TestTableOutboundUnanswered(t *testing.T) {
	const unanswered = 5
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		crowd := crowd(n, ways)
		var notes []func(tables)
		for i, other := range crowd {
			notes = append(notes, b.sent(other, udp{}, uint32(20-i)))
		}
		b.put(notes...)
		for i, other := range crowd {
			if i != unanswered {
				b.run(ingress(b.production, other.in(b.production, udp{})), unread(bpf.DatapathEventEVENT_IGNORED_ANSWER))
			}
		}
		next := newcomer(n)
		want := b.notes(next, udp{})
		want.events[bpf.DatapathEventEVENT_EVICTED_OUTBOUND] = 1
		enter := want.tables
		want.tables = func(t tables) {
			enter(t)
			delete(t.Outbound, b.Seeds.Digest(crowd[unanswered].tuple(udp{})))
		}
		b.run(egress(b.production, next.out(b.production, udp{})), want)
	})
}

// TestTableOutboundLost: where the note about a tuple is pushed out, what comes in by it is
// no beginning all the same, but has the note made anew: the note had been answered, or is so
// young that the answer may still be on its way. So many others that proved to be no flow, or
// that are pushed out, do not change that.
func TestTableOutboundLost(t *testing.T) {
	for name, lost := range map[string]struct {
		answered, young bool
	}{
		"answered": {answered: true}, "young": {young: true}, "neither": {},
	} {
		t.Run(name, func(t *testing.T) {
			eachFamily(t, func(t *testing.T, b *bed, n network) {
				b.fillMarks()
				crowd := crowd(n, ways)
				notes := []func(tables){b.sent(crowd[0], udp{}, 20)}
				if lost.young {
					notes[0] = b.sent(crowd[0], udp{}, 0)
				}
				for _, other := range crowd[1:] {
					notes = append(notes, b.sent(other, udp{}, 10))
				}
				b.put(notes...)
				for i, other := range crowd {
					if i > 0 || lost.answered {
						b.run(ingress(b.production, other.in(b.production, udp{})), unread(bpf.DatapathEventEVENT_IGNORED_ANSWER))
					}
				}
				pushOut := b.notes(newcomer(n), udp{})
				pushOut.events[bpf.DatapathEventEVENT_EVICTED_OUTBOUND] = 1
				enter := pushOut.tables
				pushOut.tables = func(t tables) {
					enter(t)
					delete(t.Outbound, b.Seeds.Digest(crowd[0].tuple(udp{})))
				}
				b.run(egress(b.production, newcomer(n).out(b.production, udp{})), pushOut)

				b.fillMarks()
				answer := ingress(b.replication, crowd[0].in(b.replication, udp{}))
				if !lost.answered && !lost.young {
					b.run(answer, b.starts(crowd[0], udp{}, b.replication))
					return
				}
				again := b.notes(crowd[0], udp{})
				again.events[bpf.DatapathEventEVENT_EVICTED_OUTBOUND] = 1
				again.events[bpf.DatapathEventEVENT_IGNORED_ANSWER] = 1
				remember := again.tables
				again.tables = func(t tables) {
					remember(t)
					delete(t.Outbound, b.Seeds.Digest(newcomer(n).tuple(udp{})))
				}
				b.run(answer, again)
			})
		})
	}
}

// TestTableOutbound: notes of what the host sent come and go alike.
func TestTableOutbound(t *testing.T) {
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		crowd := crowd(n, ways)
		var notes []func(tables)
		for i, other := range crowd {
			notes = append(notes, b.sent(other, udp{}, uint32(20-i)))
		}
		b.put(notes[:ways-1]...)
		next := newcomer(n)
		b.run(egress(b.production, next.out(b.production, udp{})), b.notes(next, udp{}))

		b.put(notes...)
		want := b.notes(next, udp{})
		want.events[bpf.DatapathEventEVENT_EVICTED_OUTBOUND] = 1
		want.tables = func(t tables) {
			delete(t.Outbound, b.Seeds.Digest(crowd[0].tuple(udp{})))
			t.Outbound[b.Seeds.Digest(next.tuple(udp{}))] = justNow
		}
		b.run(egress(b.production, next.out(b.production, udp{})), want)
	})
}

// TestTableOutboundOutdated: with a note that says nothing any more nothing is lost.
func TestTableOutboundOutdated(t *testing.T) {
	eachFamily(t, func(t *testing.T, b *bed, n network) {
		crowd := crowd(n, ways)
		notes := []func(tables){b.sent(crowd[0], udp{}, uint32(bpf.DatapathIdleSecondsIDLE_OUTBOUND)+1)}
		for _, other := range crowd[1:] {
			notes = append(notes, b.sent(other, udp{}, 1))
		}
		b.put(notes...)
		next := newcomer(n)
		want := b.notes(next, udp{})
		want.tables = func(t tables) {
			delete(t.Outbound, b.Seeds.Digest(crowd[0].tuple(udp{})))
			t.Outbound[b.Seeds.Digest(next.tuple(udp{}))] = justNow
		}
		b.run(egress(b.production, next.out(b.production, udp{})), want)
	})
}
