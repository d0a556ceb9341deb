// SPDX-License-Identifier: Apache-2.0

package counters

import "replypath/bpf"

// Totals are the packets of replies by what became of them, of all interface pairs together.
type Totals struct {
	Corrected   uint64
	Observed    uint64 // would be corrected if their interface enforced
	Lost        uint64
	Lossy       uint64            // of those lost: by interface pairs that lose more than a few
	Uncorrected map[string]uint64 // by reason, those that there are, without what is observed
}

// A pair loses a few packets when an interface goes down, or programs come and go.
const (
	fewLost      = 3
	lostInNumber = 1000 // moved packets, of which one may be lost
)

// lossy adds up what was lost by pairs that lose more than a few packets.
func (c Pairs) lossy() (lost uint64) {
	type balance struct{ lost, corrected uint64 }
	sums := make(map[bpf.DatapathPair]balance)
	for pair, count := range c {
		outcome := bpf.DatapathOutcome(pair.Outcome)
		pair.Outcome = 0
		b := sums[pair]
		if _, is := lostReasons[outcome]; is {
			b.lost += count.Packets
		} else if outcome == bpf.DatapathOutcomeOUTCOME_CORRECTED {
			b.corrected += count.Packets
		}
		sums[pair] = b
	}
	for _, b := range sums {
		if b.lost > fewLost && b.lost > b.corrected/lostInNumber {
			lost += b.lost
		}
	}
	return lost
}

// Totals adds up what was counted for replies. What the host originates is none.
func (c Pairs) Totals() Totals {
	t := Totals{Uncorrected: make(map[string]uint64), Lossy: c.lossy()}
	for pair, count := range c {
		outcome := bpf.DatapathOutcome(pair.Outcome)
		_, isLost := lostReasons[outcome]
		reason, isUncorrected := uncorrectedReasons[outcome]
		switch {
		case count.Packets == 0:
		case outcome == bpf.DatapathOutcomeOUTCOME_CORRECTED:
			t.Corrected += count.Packets
		case outcome == bpf.DatapathOutcomeOUTCOME_OBSERVE:
			t.Observed += count.Packets
		case isLost:
			t.Lost += count.Packets
		case isUncorrected:
			t.Uncorrected[reason] += count.Packets
		}
	}
	return t
}
