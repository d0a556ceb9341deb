// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"replypath/bpf"
	"replypath/loader/config"
	"replypath/loader/pins"
	"replypath/test/await"
)

// TestMarks: what had failed is remembered once an hour, and compared with is what had one hour to two hours ago.
func TestMarks(t *testing.T) {
	start := time.Date(2026, time.March, 1, 12, 0, 0, 0, time.UTC)
	marks := []pins.MarkRecord{{At: start}}
	for minute := range 600 {
		now := start.Add(time.Duration(minute) * time.Minute)
		if isMarkDue(marks, now) {
			marks = marked(marks, pins.MarkRecord{At: now, Lost: uint64(minute)})
		}
		if age := now.Sub(marks[0].At); age >= 2*markEvery || minute >= 60 && age < markEvery || len(marks) > 2 {
			t.Fatalf("in minute %d: %+v", minute, marks)
		}
	}
	if !isMarkDue(nil, start) {
		t.Error("a journal of an earlier version gets none")
	}
}

func TestMostExclusions(t *testing.T) {
	if most := len(bpf.DatapathExclusionSet{}.Rule); most != config.MaxExclusions {
		t.Errorf("the programs look at %d exclusions, a configuration may have %d", most, config.MaxExclusions)
	}
}

// TestNothingStaysOpen: rounds of all that opens something leave the same files open.
func TestNothingStaysOpen(t *testing.T) {
	b := newServerAlone(t)
	// The first round opens what stays for good, such as the kernel's BTF.
	for round, before := 0, []string(nil); round < 3; round++ {
		r := b.start()
		await.Must(t, r.reload(largerConfig))
		b.status()
		b.flows()
		b.setMode("observe")
		r.stop()
		b.failAfter(b.failAfter(1), byClsact)
		b.detach()
		b.failAfter(b.failAfter(1))
		after := openFiles(t)
		if round > 0 {
			wantSame(b, "open files", before, after)
		}
		before = after
	}
}

// openFiles returns what the descriptors of this process refer to. Those of the topology and of the runtime are there
// before and after.
func openFiles(t *testing.T) (files []string) {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	await.Must(t, err)
	for _, entry := range entries {
		target, err := os.Readlink(filepath.Join("/proc/self/fd", entry.Name()))
		if err == nil && !strings.HasPrefix(target, "/proc/") {
			files = append(files, target)
		}
	}
	slices.Sort(files)
	return files
}
