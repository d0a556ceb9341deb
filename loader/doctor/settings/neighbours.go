// SPDX-License-Identifier: Apache-2.0

package settings

import (
	"fmt"
	"math/bits"

	"replypath/loader/doctor/finding"
	"replypath/loader/doctor/snapshot"
)

// NeighbourTable finds a neighbour table that is nearly full: the kernel then
// sends nothing to whom it has no entry for, gateways included. The table and its
// limits are shared by all network namespaces, and shown in the first one only: they are the host's, not a managed
// interface's, so that they are not mended.
func NeighbourTable(h *snapshot.Host) []finding.Finding {
	return finding.Each(snapshot.Families, func(family *int) finding.Finding {
		t, known := h.NeighTables[*family]
		if !known {
			return finding.None
		}
		count, protocol := h.CountNeighbours(*family), snapshot.FamilyName[*family]
		text := fmt.Sprintf("%s: %d neighbours, gc_thresh2 %d, gc_thresh3 %d", protocol, count, t.Thresh2, t.Thresh3)
		if t.Fulls > 0 {
			text += fmt.Sprintf(", %d times full since the host started", t.Fulls)
		}
		severity := finding.Warning
		switch {
		case count*10 >= t.Thresh3*9:
			severity = finding.Error
		case count <= t.Thresh2 && (t.Fulls == 0 || isEnlarged(t, count)):
			return finding.Fine("", text)
		}
		key := "net." + protocol + ".neigh.default.gc_thresh"
		size := max(2*t.Thresh3, 1<<bits.Len(uint(4*count))) // room for four times as many, and twice what it had
		return finding.Seen(severity, "", fmt.Sprintf(
			"%s: who has no entry gets no packet: gc_thresh3 %d and gc_thresh2 %d have room",
			text, size, size/2), "sysctl "+key+"3 "+key+"2")
	})
}

// usualThresh3 is the kernel's default.
const usualThresh3 = 1024

// isEnlarged tells a table that somebody has made larger than the kernel does, and
// that has room: the counter of how often it was full does not begin anew.
func isEnlarged(t snapshot.NeighTable, count int) bool {
	return t.Thresh3 > usualThresh3 && 4*count <= t.Thresh3
}
