// SPDX-License-Identifier: Apache-2.0

package soak

import (
	"bytes"
	"cmp"
	"debug/buildinfo"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"replypath/test/await"
	"replypath/test/product"
	"replypath/test/traffic"
)

// sample is what the daemon took at a moment. Sizes are in bytes.
type sample struct {
	Seconds     float64 `json:"seconds"` // since the beginning
	Resident    uint64  `json:"resident"`
	Heap        uint64  `json:"heap"`
	Goroutines  uint64  `json:"goroutines"`
	Descriptors uint64  `json:"descriptors"`
	Flows       int     `json:"flows"`
}

// trend compares the second quarter of the run with the last one, by their medians:
// in the first one, caches and tables fill.
type trend struct {
	Early uint64 `json:"early"`
	Late  uint64 `json:"late"`
}

// frames counts packets that left the server.
type frames struct {
	Right       int            `json:"right"`
	Explained   map[string]int `json:"explained"` // by the event
	Unexplained int            `json:"unexplained"`
	// LatestMAC is how many seconds after a gateway's MAC had changed a packet went to the one of before.
	LatestMAC float64 `json:"latest_mac"`
}

// report is the result of a run.
type report struct {
	Commit       string    `json:"commit,omitempty"`
	Kernel       string    `json:"kernel"`
	CPUs         int       `json:"cpus"`
	RaceDetector bool      `json:"race_detector"`
	Began        time.Time `json:"began"`
	Seconds      float64   `json:"seconds"`
	Connections  int64     `json:"connections"`
	Questions    int64     `json:"questions"`
	Repeated     int       `json:"repeated"`
	// Explained is what was repeated beside that, as who asked had no way, by the event.
	Explained map[string]int `json:"explained"`
	Events    map[string]int `json:"events"`
	// Slowest is how long the longest of each kind took, in seconds.
	Slowest map[string]float64 `json:"slowest"`
	Frames  frames             `json:"frames"`
	// Bridged is what the fallback routes served, by the event.
	Bridged     map[string]bridged `json:"bridged"`
	Resident    trend              `json:"resident"`
	Descriptors trend              `json:"descriptors"`
	Goroutines  trend              `json:"goroutines"`
	Failures    []string           `json:"failures"`
	Samples     []sample           `json:"samples"`
}

func newReport(t *testing.T) report {
	t.Helper()
	var name unix.Utsname
	await.Must(t, unix.Uname(&name))
	r := report{
		Commit: os.Getenv(commitVariable), Kernel: unix.ByteSliceToString(name.Release[:]), CPUs: runtime.NumCPU(),
		Began: time.Now(), Events: make(map[string]int), Slowest: make(map[string]float64), Failures: []string{},
		Bridged: make(map[string]bridged), Explained: make(map[string]int),
	}
	info, err := buildinfo.ReadFile(product.Binary())
	await.Must(t, err)
	for _, setting := range info.Settings {
		r.RaceDetector = r.RaceDetector || setting.Key == "-race" && setting.Value == "true"
	}
	return r
}

func (r *report) fail(failures ...string) { r.Failures = append(r.Failures, failures...) }

// What is flat: the race detector's shadow memory follows every page that the heap
// ever touched, and each interface that comes adds a record.
const (
	mostGrowth      = 1.15
	mostDescriptors = 2
	mostGoroutines  = 4
	// telling is the shortest run in which growth is looked for.
	telling = 10 * time.Minute
)

// conclude sums up and judges.
func (r *report) conclude(l *traffic.Load, j *judge) {
	r.Seconds = time.Since(r.Began).Seconds()
	r.Connections, r.Questions = l.Connections(), l.Answers()
	r.Frames = frames{Right: j.right, Explained: j.explained, Unexplained: len(j.wrong), LatestMAC: j.latestMAC.Seconds()}
	r.Resident = r.trend(func(s sample) uint64 { return s.Resident })
	r.Descriptors = r.trend(func(s sample) uint64 { return s.Descriptors })
	r.Goroutines = r.trend(func(s sample) uint64 { return s.Goroutines })
	for _, frame := range j.wrong[:min(len(j.wrong), 20)] {
		r.fail("unexplained: " + frame)
	}
	if r.Frames.Right == 0 || r.Connections == 0 {
		r.fail("there was no load")
	}
	if r.Seconds < telling.Seconds() {
		return
	}
	for what, grew := range map[string]bool{
		"memory":     float64(r.Resident.Late) > float64(r.Resident.Early)*mostGrowth,
		"open files": r.Descriptors.Late > r.Descriptors.Early+mostDescriptors,
		"goroutines": r.Goroutines.Late > r.Goroutines.Early+mostGoroutines,
	} {
		if grew {
			r.fail(what + " grew: the medians tell how much")
		}
	}
}

func (r *report) trend(of func(sample) uint64) trend {
	median := func(samples []sample) uint64 {
		values := []uint64{0}
		for _, s := range samples {
			values = append(values, of(s))
		}
		slices.Sort(values)
		return values[len(values)/2]
	}
	quarter := len(r.Samples) / 4
	return trend{Early: median(r.Samples[quarter : 2*quarter]), Late: median(r.Samples[3*quarter:])}
}

// progress is a line for who watches.
func (s *soak) progress() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	r, last := &s.report, s.report.Samples[len(s.report.Samples)-1]
	return fmt.Sprintf("%s: %d connections, %d questions, %d repeated, %d events; "+
		"daemon: %d MiB, %d open files, %d goroutines; %d flows",
		time.Since(r.Began).Round(time.Second), s.load.Connections(), s.load.Answers(), r.Repeated, r.events(),
		last.Resident>>20, last.Descriptors, last.Goroutines, last.Flows)
}

func (r *report) events() int {
	sum := 0
	for _, count := range r.Events {
		sum += count
	}
	return sum
}

// String sums the run up for who watches.
func (r *report) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s on kernel %s, %d CPUs, race detector %t, commit %s\n",
		(time.Duration(r.Seconds) * time.Second), r.Kernel, r.CPUs, r.RaceDetector, cmp.Or(r.Commit, "not told"))
	fmt.Fprintf(&b, "%d connections, %d questions, %d repeated, and %v where an event left no way\n",
		r.Connections, r.Questions, r.Repeated, r.Explained)
	fmt.Fprintf(&b, "%d events %v\n", r.events(), r.Events)
	fmt.Fprintf(&b, "%d packets by the right interface to the right MAC, %v explained by events, %d unexplained\n",
		r.Frames.Right, r.Frames.Explained, r.Frames.Unexplained)
	for _, event := range slices.Sorted(maps.Keys(r.Bridged)) {
		fmt.Fprintf(&b, "%s: %d answers by way of the fallback route, the longest pause of a connection %v s; "+
			"%d connections of the server's own refused\n",
			event, r.Bridged[event].Answers, r.Bridged[event].Pause, r.Bridged[event].Refused)
	}
	fmt.Fprintf(&b, "%.0f ms after a gateway's MAC had changed a packet last went to the one of before\n", r.Frames.LatestMAC*1000)
	fmt.Fprintf(&b, "medians of the second and the last quarter: "+
		"memory %.1f and %.1f MiB, open files %d and %d, goroutines %d and %d\n",
		float64(r.Resident.Early)/(1<<20), float64(r.Resident.Late)/(1<<20), r.Descriptors.Early, r.Descriptors.Late,
		r.Goroutines.Early, r.Goroutines.Late)
	fmt.Fprintf(&b, "%d failures", len(r.Failures))
	return b.String()
}

// write writes the report to the file that the environment names.
func (r *report) write(t *testing.T) {
	t.Helper()
	path := os.Getenv(reportVariable)
	if path == "" {
		return
	}
	data := await.Must1[[]byte](t)(json.MarshalIndent(r, "", "  "))
	await.Must(t, os.MkdirAll(filepath.Dir(path), 0o755))
	await.Must(t, os.WriteFile(path, append(bytes.TrimSpace(data), '\n'), 0o644))
}
