// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"testing"
	"time"

	"replypath/loader/pins"
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
