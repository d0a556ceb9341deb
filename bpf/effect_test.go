// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"testing"

	"github.com/cilium/ebpf/btf"

	"replypath/bpf"
	"replypath/bpf/internal/rig"
	"replypath/test/await"
)

// effect is everything that a run is expected to change. The zero value is a packet that passes as it is and leaves
// no trace.
type effect struct {
	redirect bool
	drop     bool
	frame    []byte // nil: as it was
	events   events
	pairs    pairs
	tables   func(tables) // nil: nothing
	probed   *rig.Probed  // nil: not asked
}

type (
	events map[bpf.DatapathEvent]uint64
	pairs  map[bpf.DatapathPair]count
)

type count struct{ Packets, Bytes, Flows uint64 }

// outcome is everything that can be seen of a run.
type outcome struct {
	verdict          int32
	frame            []byte
	context          rig.Context
	before, after    tables
	counted          rig.Counts // before
	counts           rig.Counts // after
	earliest, latest uint32     // ticks
}

func (b *bed) compare(r run, want effect, got outcome) {
	b.t.Helper()
	defer func(failed bool) {
		if b.t.Failed() && !failed {
			b.t.Logf("the first to fail: %s on %s, probe %+v, packet\n%x", r.program, r.via.Name, r.probe, r.frame)
		}
	}(b.t.Failed())
	wantVerdict := int32(pass)
	switch {
	case want.redirect:
		wantVerdict = redirect
	case want.drop:
		wantVerdict = shot
	}
	await.Same(b.t, "verdict", wantVerdict, got.verdict)
	wantFrame := want.frame
	if wantFrame == nil {
		wantFrame = r.frame
	}
	await.Same(b.t, "packet afterwards", wantFrame, got.frame)
	b.compareTraces(want, got)
	b.compareContext(r, want, got.context)
}

// compareTraces holds what was left in tables and counters against what was expected.
func (b *bed) compareTraces(want effect, got outcome) {
	b.t.Helper()
	wantTables := got.before
	b.ran = got.latest // to read tables and counters before this line may take a second
	if want.tables != nil {
		want.tables(wantTables)
	}
	settle(got.after, wantTables, got.earliest, got.latest)
	marks := make(map[uint64]bool)
	for digest := range wantTables.Marks {
		marks[b.Cut(digest)] = true
	}
	if wantTables.Marks = marks; b.marksVary || maps.Equal(marks, got.after.Marks) { // cmp takes a second for a full table
		wantTables.Marks, got.after.Marks = nil, nil
	}
	await.Same(b.t, "tables afterwards", wantTables, got.after)
	await.Same(b.t, "events", eventSet.text(want.events), eventSet.text(eventDelta(got.counted, got.counts)))
	wantPairs := want.pairs
	if wantPairs == nil {
		wantPairs = pairs{}
	}
	gotPairs := pairDelta(got.counted, got.counts)
	if !slices.ContainsFunc(slices.Collect(maps.Keys(wantPairs)), isLost) {
		maps.DeleteFunc(gotPairs, func(p bpf.DatapathPair, _ count) bool { return isLost(p) }) // of the run before: nothing runs at its target
	}
	await.Same(b.t, "pairs", wantPairs, gotPairs)
}

// compareContext makes sure that nothing of the packet's metadata was touched.
func (b *bed) compareContext(r run, want effect, got rig.Context) {
	b.t.Helper()
	if got.Mark != 0xabcd || got.Priority != 3 || got.Tstamp != 0 || got.Ifindex != r.via.Index {
		b.t.Errorf("context afterwards: mark %#x, priority %d, time %d, ifindex %d", got.Mark, got.Priority, got.Tstamp, got.Ifindex)
	}
	if r.probe == (rig.Probe{}) {
		await.Same(b.t, "control block afterwards", [5]uint32{}, got.CB)
		return
	}
	if want.probed != nil {
		await.Same(b.t, "probed", *want.probed, rig.ReadProbed(&got))
	}
}

// toldNow is justNow for when a sender was told of its size, and a SYN-ACK left: an entry has the low bits of these times only.
const toldNow = math.MaxUint16

// settle writes justNow for every time that was expected to be it and lies within the run.
func settle(got, want tables, earliest, latest uint32) {
	within := func(time *uint32, expected uint32) {
		if expected == justNow && *time-earliest <= latest-earliest {
			*time = justNow
		}
	}
	told := func(time *uint16, expected uint16) {
		if expected == toldNow && *time-uint16(earliest) <= uint16(latest-earliest) {
			*time = toldNow
		}
	}
	settleFlows(got.HalfOpen, want.HalfOpen, within, told)
	settleFlows(got.Established, want.Established, within, told)
	settleFlows(got.Connectionless, want.Connectionless, within, told)
	for digest, sent := range got.Outbound {
		within(&sent, want.Outbound[digest])
		got.Outbound[digest] = sent
	}
}

func settleFlows(got, want entries, within func(*uint32, uint32), told func(*uint16, uint16)) {
	for tuple, f := range got {
		within(&f.Seen, want[tuple].Seen)
		within(&f.Created, want[tuple].Created)
		within(&f.SndUna, want[tuple].SndUna) // of what has no connection: spoke, rival_since
		within(&f.RcvNxt, want[tuple].RcvNxt)
		told(&f.SizeTold, want[tuple].SizeTold)
		told(&f.Sent, want[tuple].Sent)
		got[tuple] = f
	}
}

func eventDelta(before, after rig.Counts) events {
	delta := events{}
	for event, n := range after.Events {
		if n -= before.Events[event]; n != 0 {
			delta[event] = n
		}
	}
	return delta
}

func pairDelta(before, after rig.Counts) pairs {
	delta := pairs{}
	for pair, n := range after.Pairs {
		old := before.Pairs[pair]
		d := count{n.Packets - old.Packets, n.Bytes - old.Bytes, n.Flows - old.Flows}
		if d != (count{}) {
			delta[pair] = d
		}
	}
	return delta
}

type eventNames map[bpf.DatapathEvent]string

func readEventNames() (eventNames, error) {
	spec, err := bpf.LoadDatapath()
	if err != nil {
		return nil, err
	}
	var enum *btf.Enum
	if err := spec.Types.TypeByName("event", &enum); err != nil {
		return nil, fmt.Errorf("read event names: %w", err)
	}
	names := make(eventNames)
	for _, v := range enum.Values {
		names[bpf.DatapathEvent(v.Value)] = v.Name
	}
	return names, nil
}

func (n eventNames) text(e events) map[string]uint64 {
	text := make(map[string]uint64)
	for event, count := range e {
		name, ok := n[event]
		if !ok {
			name = fmt.Sprintf("%s + %d", n[eventMoved], event-eventMoved)
		}
		text[name] = count
	}
	return text
}

func once(event bpf.DatapathEvent) events {
	return events{event: 1}
}

// isLost tells of packets that were moved and never came to their target.
func isLost(p bpf.DatapathPair) bool {
	return bpf.DatapathOutcome(p.Outcome) == outcomeLost || bpf.DatapathOutcome(p.Outcome) == outcomeLostLinkDown
}

func pair(from, to nic, n network, m message, outcome bpf.DatapathOutcome) bpf.DatapathPair {
	return bpf.DatapathPair{
		From:     from.id,
		To:       to.id,
		Family:   n.family,
		Protocol: uint8(class(m.protocol(n))),
		Outcome:  uint8(outcome),
	}
}

// and is the effect with a further change of the tables.
func (e effect) and(change func(tables)) effect {
	before := e.tables
	e.tables = func(t tables) {
		if before != nil {
			before(t)
		}
		change(t)
	}
	return e
}

// again is the effect of the next packet: what it is counted for was counted as a flow before.
func (e effect) again() effect {
	e.pairs, e.tables = maps.Clone(e.pairs), nil
	for p, c := range e.pairs {
		if c.Flows = 0; c == (count{}) {
			delete(e.pairs, p)
		} else {
			e.pairs[p] = c
		}
	}
	return e
}

// What a test shows, for what each of its kind is.
type (
	story        = func(*testing.T, *bed, network)
	messageStory = func(*testing.T, *bed, network, message)
)

// setup changes what a test begins with; nil: nothing.
type setup func(*bed, network)

func (s setup) on(b *bed, n network) {
	if s != nil {
		s(b, n)
	}
}

// either is the one where the condition holds, and else the other.
func either[T any](condition bool, one, other T) T {
	if condition {
		return one
	}
	return other
}

// sub runs a part of the test by this name on the same bed.
func (b *bed) sub(name string, f func(t *testing.T)) {
	whole := b.t
	defer func() { b.t = whole }()
	whole.Run(name, func(t *testing.T) {
		b.t = t
		f(t)
	})
}

// under runs a test by this name for each of something.
func under[F any](t *testing.T, name string, each func(*testing.T, F), f F) {
	t.Helper()
	t.Run(name, func(t *testing.T) { each(t, f) })
}

// tell runs tests by their names for each of something.
func tell[F any](t *testing.T, each func(*testing.T, F), stories map[string]F) {
	t.Helper()
	for _, name := range slices.Sorted(maps.Keys(stories)) {
		under(t, name, each, stories[name])
	}
}

func (b *bed) arrives(n network, m message, want effect, edits ...edit) {
	b.t.Helper()
	b.run(ingress(b.replication, n.in(b.replication, m, edits...)), want)
}

func (b *bed) leaves(n network, m message, want effect, edits ...edit) {
	b.t.Helper()
	b.run(egress(b.production, n.out(b.production, m, edits...)), want)
}
