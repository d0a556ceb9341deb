// SPDX-License-Identifier: Apache-2.0

package top

import (
	"replypath/loader/counters"
	"replypath/loader/status"
	"replypath/metrics"
)

// kind is what a counter counts.
type kind int

const (
	asymmetricPackets kind = iota
	correctedPackets
	correctedBytes
	uncorrectedPackets
)

// counter names one of the programs' counters.
type counter struct {
	metrics.Pair
	kind   kind
	reason string // of uncorrectedPackets
}

type counts map[counter]uint64

func newCounts(traffic *status.Traffic) counts {
	c := make(counts)
	for _, p := range traffic.Pairs {
		c[counter{Pair: p.Pair, kind: asymmetricPackets}] = p.AsymmetricPackets
		c[counter{Pair: p.Pair, kind: correctedPackets}] = p.CorrectedPackets
		c[counter{Pair: p.Pair, kind: correctedBytes}] = p.CorrectedBytes
	}
	for _, u := range traffic.Uncorrected {
		c[counter{Pair: u.Pair, kind: uncorrectedPackets, reason: u.Reason}] = u.Packets
	}
	return c
}

// since returns by how much the counters grew. Of one that began anew, with the
// maps or with an interface's id, that is not known: 0.
func (c counts) since(before counts) counts {
	grown := make(counts, len(c))
	for name, count := range c {
		if earlier := before[name]; count > earlier {
			grown[name] = count - earlier
		}
	}
	return grown
}

// setTraffic fills in the interfaces and the total, without rates.
func (l *Look) setTraffic(traffic *status.Traffic) {
	l.Mode, l.Daemon = traffic.Mode, traffic.Daemon
	l.Interfaces = make([]Interface, len(traffic.Interfaces))
	for i, s := range traffic.Interfaces {
		l.Interfaces[i] = Interface{
			Name: s.Name, Index: s.Index, Up: s.Up, Attached: s.Attached, Mechanism: s.Mechanism, Mode: s.Mode,
			Asymmetry: newAsymmetry(),
		}
	}
	l.Total.Asymmetry = newAsymmetry()
}

func newAsymmetry() Asymmetry {
	a := Asymmetry{Uncorrected: make(map[string]float64)}
	for _, reason := range counters.UncorrectedReasons() {
		a.Uncorrected[reason] = 0
	}
	return a
}

// setRates adds what was counted since the look before to the interfaces and to
// the total.
func (l *Look) setRates(grown counts) {
	for name, count := range grown {
		rate := l.rate(count)
		l.Total.add(name, rate)
		for i := range l.Interfaces {
			l.Interfaces[i].add(name, rate)
		}
	}
}

// rate is 0 while nothing is known of an earlier look.
func (l *Look) rate(count uint64) float64 {
	if l.Seconds <= 0 {
		return 0
	}
	return float64(count) / l.Seconds
}

func (t *Total) add(name counter, rate float64) {
	t.Corrected.add(name, rate)
	t.Asymmetry.add(name, rate)
}

func (i *Interface) add(name counter, rate float64) {
	if name.To == i.Name {
		i.To.add(name, rate)
		i.Asymmetry.add(name, rate)
	}
	if name.From == i.Name {
		i.From.add(name, rate)
	}
}

func (v *Volume) add(name counter, rate float64) {
	switch name.kind {
	case correctedPackets:
		v.Packets += rate
	case correctedBytes:
		v.Bytes += rate
	}
}

func (a *Asymmetry) add(name counter, rate float64) {
	switch name.kind {
	case asymmetricPackets:
		a.Packets += rate
	case uncorrectedPackets:
		a.Uncorrected[name.reason] += rate
	}
}
