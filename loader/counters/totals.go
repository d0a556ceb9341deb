// SPDX-License-Identifier: Apache-2.0

package counters

import (
	"fmt"
	"time"

	"replypath/bpf"
	"replypath/loader/pins"
)

// Totals are the packets of replies by what became of them, of all interface pairs together. The JSON names are fixed.
type Totals struct {
	Corrected    uint64            `json:"corrected"`
	WouldCorrect uint64            `json:"would_correct"` // if their interface enforced
	Lost         uint64            `json:"lost"`          // moved, and never seen leaving
	Uncorrected  map[string]uint64 `json:"uncorrected"`   // by reason, those that there are, without what is observed
	Failing      Failing           `json:"-"`
}

// Failing are the packets that left wrongly, or not at all, by interface pairs where these are more than a few.
type Failing struct {
	Lost        uint64
	Uncorrected uint64 // without those that go as routed as it was meant
}

// A pair loses a few packets when an interface goes down, or programs come and go.
const (
	fewFail      = 3
	failInNumber = 1000 // corrected packets, beside which one may fail
)

// meant are the reasons for which packets go as routed as somebody wants it.
var meant = map[string]bool{
	uncorrectedReasons[bpf.DatapathOutcomeOUTCOME_OBSERVE]:        true,
	uncorrectedReasons[bpf.DatapathOutcomeOUTCOME_BOUND_DEVICE]:   true,
	uncorrectedReasons[bpf.DatapathOutcomeOUTCOME_UNNAMED_TUNNEL]: true,
}

// failing adds up what fails by pairs where that is more than a few packets.
func (c Pairs) failing() (f Failing) {
	type balance struct{ lost, uncorrected, corrected uint64 }
	sums := make(map[bpf.DatapathPair]balance)
	for pair, count := range c {
		outcome := bpf.DatapathOutcome(pair.Outcome)
		pair.Outcome = 0
		b := sums[pair]
		_, isLost := lostReasons[outcome]
		reason, isUncorrected := uncorrectedReasons[outcome]
		switch {
		case outcome == bpf.DatapathOutcomeOUTCOME_CORRECTED:
			b.corrected += count.Packets
		case isLost:
			b.lost += count.Packets
		case isUncorrected && !meant[reason]:
			b.uncorrected += count.Packets
		}
		sums[pair] = b
	}
	for _, b := range sums {
		few := max(fewFail, b.corrected/failInNumber)
		if b.lost > few {
			f.Lost += b.lost
		}
		if b.uncorrected > few {
			f.Uncorrected += b.uncorrected
		}
	}
	return f
}

// Unmeant is how many packets went as routed although nobody wants it.
func (t *Totals) Unmeant() (sum uint64) {
	for reason, packets := range t.Uncorrected {
		if !meant[reason] {
			sum += packets
		}
	}
	return sum
}

// Mark is what is to be remembered of a moment, to tell later what has failed since.
func (t *Totals) Mark(at time.Time, notEntered uint64) pins.MarkRecord {
	return pins.MarkRecord{At: at, Lost: t.Lost, Uncorrected: t.Unmeant(), NotEntered: notEntered}
}

// ReadMark reads what has failed up to now.
func ReadMark(maps *bpf.DatapathMaps, at time.Time) (pins.MarkRecord, error) {
	pairs, err := ReadPairs(maps)
	if err != nil {
		return pins.MarkRecord{}, err
	}
	notEntered, err := NotEntered(maps)
	totals := pairs.Totals()
	return totals.Mark(at, notEntered), err
}

// FailingSince are those of Failing that failed since a mark, unless they are few.
func (t *Totals) FailingSince(mark pins.MarkRecord) Failing {
	since := func(failing, now, before uint64) uint64 {
		if now <= before+fewFail {
			return 0
		}
		return min(failing, now-before)
	}
	return Failing{
		Lost: since(t.Failing.Lost, t.Lost, mark.Lost), Uncorrected: since(t.Failing.Uncorrected, t.Unmeant(), mark.Uncorrected),
	}
}

// NotEntered is how many flows found no place in a table.
func NotEntered(maps *bpf.DatapathMaps) (sum uint64, err error) {
	var counts []uint64
	for event := bpf.DatapathEventEVENT_INSERT_FAILED_HALF_OPEN; event <= bpf.DatapathEventEVENT_INSERT_FAILED_CONNECTIONLESS; event++ {
		if err := maps.Events.Lookup(uint32(event), &counts); err != nil {
			return 0, fmt.Errorf("read counter %d: %w", event, err)
		}
		for _, count := range counts {
			sum += count
		}
	}
	return sum, nil
}

// Totals adds up what was counted for replies. What the host originates is none.
func (c Pairs) Totals() Totals {
	t := Totals{Uncorrected: make(map[string]uint64), Failing: c.failing()}
	for pair, count := range c {
		outcome := bpf.DatapathOutcome(pair.Outcome)
		_, isLost := lostReasons[outcome]
		reason, isUncorrected := uncorrectedReasons[outcome]
		switch {
		case count.Packets == 0:
		case outcome == bpf.DatapathOutcomeOUTCOME_CORRECTED:
			t.Corrected += count.Packets
		case outcome == bpf.DatapathOutcomeOUTCOME_OBSERVE:
			t.WouldCorrect += count.Packets
		case isLost:
			t.Lost += count.Packets
		case isUncorrected:
			t.Uncorrected[reason] += count.Packets
		}
	}
	return t
}
