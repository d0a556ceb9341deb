// SPDX-License-Identifier: Apache-2.0

package top

import (
	"replypath/loader/counters"
	"replypath/loader/status"
)

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
func (l *Look) setRates(before, now map[counters.Series]uint64) {
	for series, count := range now {
		rate := l.rate(before[series], count)
		l.Total.Asymmetry.add(&series, rate)
		l.Total.Corrected.add(&series, rate)
		for n := range l.Interfaces {
			i := &l.Interfaces[n]
			if series.To == i.Name {
				i.Asymmetry.add(&series, rate)
				i.To.add(&series, rate)
			}
			if series.From == i.Name {
				i.From.add(&series, rate)
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

func (v *Volume) add(s *counters.Series, rate float64) {
	switch s.Of {
	case counters.CorrectedPackets:
		v.Packets += rate
	case counters.CorrectedBytes:
		v.Bytes += rate
	}
}

func (a *Asymmetry) add(s *counters.Series, rate float64) {
	switch s.Of {
	case counters.AsymmetricPackets:
		a.Packets += rate
	case counters.UncorrectedPackets:
		a.Uncorrected[s.Value] += rate
	}
}
