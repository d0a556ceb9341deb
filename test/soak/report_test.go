// SPDX-License-Identifier: Apache-2.0

package soak

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"replypath/test/traffic"
)

// sample is what the daemon took at a moment, and how many flows there were. Sizes are in bytes.
type sample struct {
	resident, descriptors, goroutines uint64
	flows                             int
}

// report is the result of a run.
type report struct {
	began    time.Time
	events   map[string]int
	bridged  map[string]bridged // what the fallback routes served, by the event
	samples  []sample
	failures []string
}

func newReport() report {
	return report{began: time.Now(), events: make(map[string]int), bridged: make(map[string]bridged)}
}

func (r *report) fail(failures ...string) { r.failures = append(r.failures, failures...) }

// What is flat: the race detector's shadow memory follows every page that the heap
// ever touched, and each interface that comes adds a record.
const (
	mostGrowth      = 1.15
	mostDescriptors = 2
	mostGoroutines  = 4
	// telling is the shortest run in which growth is looked for.
	telling = 10 * time.Minute
)

// conclude judges, and sums the run up.
func (r *report) conclude(l *traffic.Load, j *judge, repeated int64) string {
	for _, frame := range j.wrong[:min(len(j.wrong), 20)] {
		r.fail("unexplained: " + frame)
	}
	if j.right == 0 || l.Connections() == 0 {
		r.fail("there was no load")
	}
	resident, residentLate := r.trend(func(s sample) uint64 { return s.resident })
	descriptors, descriptorsLate := r.trend(func(s sample) uint64 { return s.descriptors })
	goroutines, goroutinesLate := r.trend(func(s sample) uint64 { return s.goroutines })
	for what, grew := range map[string]bool{
		"memory":     float64(residentLate) > float64(resident)*mostGrowth,
		"open files": descriptorsLate > descriptors+mostDescriptors,
		"goroutines": goroutinesLate > goroutines+mostGoroutines,
	} {
		if grew && time.Since(r.began) >= telling {
			r.fail(what + " grew: the medians tell how much")
		}
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %d connections, %d questions, %d repeated\n",
		time.Since(r.began).Round(time.Second), l.Connections(), l.Answers(), repeated)
	fmt.Fprintf(&b, "events %v\n", r.events)
	fmt.Fprintf(&b, "%d packets by the right interface to the right MAC, %v explained by events, %d unexplained\n",
		j.right, j.explained, len(j.wrong))
	for _, event := range slices.Sorted(maps.Keys(r.bridged)) {
		fmt.Fprintf(&b, "%s: %d answers by way of the fallback route, the longest pause of a connection %s\n",
			event, r.bridged[event].answers, r.bridged[event].pause.Round(time.Millisecond))
	}
	fmt.Fprintf(&b, "%s after a gateway's MAC had changed a packet last went to the one of before\n", j.latestMAC.Round(time.Millisecond))
	fmt.Fprintf(&b, "medians of the second and the last quarter: memory %.1f and %.1f MiB, open files %d and %d, goroutines %d and %d\n",
		float64(resident)/(1<<20), float64(residentLate)/(1<<20), descriptors, descriptorsLate, goroutines, goroutinesLate)
	fmt.Fprintf(&b, "%d failures", len(r.failures))
	return b.String()
}

// trend is the median of the second quarter of the run, and of the last one: in the first one, caches and tables fill.
func (r *report) trend(of func(sample) uint64) (early, late uint64) {
	median := func(samples []sample) uint64 {
		values := []uint64{0}
		for _, s := range samples {
			values = append(values, of(s))
		}
		slices.Sort(values)
		return values[len(values)/2]
	}
	quarter := len(r.samples) / 4
	return median(r.samples[quarter : 2*quarter]), median(r.samples[3*quarter:])
}
