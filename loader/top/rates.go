// SPDX-License-Identifier: Apache-2.0

package top

import (
	"replypath/loader/counters"
	"replypath/loader/status"
	"replypath/metrics"
)

// counts are what had been counted at a look.
type counts struct {
	pairs       map[metrics.Pair]metrics.PairCounters
	uncorrected map[metrics.Uncorrected]uint64 // by pair and reason
}

func newCounts(traffic *status.Traffic) counts {
	c := counts{make(map[metrics.Pair]metrics.PairCounters), make(map[metrics.Uncorrected]uint64)}
	for _, p := range traffic.Pairs {
		c.pairs[p.Pair] = p
	}
	for _, u := range traffic.Uncorrected {
		c.uncorrected[metrics.Uncorrected{Pair: u.Pair, Reason: u.Reason}] = u.Packets
	}
	return c
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
func (l *Look) setRates(before, now counts) {
	for pair, c := range now.pairs {
		was := before.pairs[pair]
		asymmetric := l.rate(was.AsymmetricPackets, c.AsymmetricPackets)
		corrected := Volume{l.rate(was.CorrectedPackets, c.CorrectedPackets), l.rate(was.CorrectedBytes, c.CorrectedBytes)}
		l.Total.Packets += asymmetric
		l.Total.Corrected.add(corrected)
		for n := range l.Interfaces {
			i := &l.Interfaces[n]
			if pair.To == i.Name {
				i.Packets += asymmetric
				i.To.add(corrected)
			}
			if pair.From == i.Name {
				i.From.add(corrected)
			}
		}
	}
	for u, packets := range now.uncorrected {
		rate := l.rate(before.uncorrected[u], packets)
		l.Total.Uncorrected[u.Reason] += rate
		for n := range l.Interfaces {
			if i := &l.Interfaces[n]; u.To == i.Name {
				i.Uncorrected[u.Reason] += rate
			}
		}
	}
}

// rate is by how much a counter grew in a second. It is not known, and 0, without an earlier look, and of a counter that began
// anew, with the maps or with an interface's id.
func (l *Look) rate(before, now uint64) float64 {
	if l.Seconds <= 0 || now < before {
		return 0
	}
	return float64(now-before) / l.Seconds
}

func (v *Volume) add(other Volume) {
	v.Packets += other.Packets
	v.Bytes += other.Bytes
}
