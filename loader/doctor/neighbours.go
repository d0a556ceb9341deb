package doctor

import (
	"fmt"
	"math/bits"
	"strconv"

	"golang.org/x/sys/unix"
)

// neighbourTable finds a neighbour table that is nearly full: the kernel then
// sends nothing to whom it has no entry for, gateways included. The table and its
// limits are shared by all network namespaces, and shown in the first one only.
func neighbourTable(h *Host) []Finding {
	var found []Finding
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		t, known := h.NeighTables[family]
		if !known {
			continue
		}
		count := h.countNeighbours(family)
		text := fmt.Sprintf("%s: %d neighbours, gc_thresh2 %d, gc_thresh3 %d", familyName(family), count, t.Thresh2, t.Thresh3)
		if t.Fulls > 0 {
			text += fmt.Sprintf(", %d times full since the host started", t.Fulls)
		}
		severity := OK
		switch {
		case count*10 >= t.Thresh3*9:
			severity = Error
		case count > t.Thresh2 || t.Fulls > 0:
			severity = Warning
		}
		if severity == OK {
			found = append(found, finding(OK, "", text, ""))
			continue
		}
		found = append(found, mending(severity, "", text+": who has no entry gets no packet", largerTable(family, count, t)...))
	}
	return found
}

// largerTable has room for four times as many neighbours, and twice what it had.
func largerTable(family, count int, t NeighTable) []sysctl {
	size := max(2*t.Thresh3, 1<<bits.Len(uint(4*count)))
	key := "net." + familyName(family) + ".neigh.default.gc_thresh"
	return []sysctl{{key + "3", strconv.Itoa(size)}, {key + "2", strconv.Itoa(size / 2)}}
}

func (h *Host) countNeighbours(family int) int {
	count := 0
	for _, n := range h.Neighbours {
		if n.Counted && n.Address.Is4() == (family == unix.AF_INET) {
			count++
		}
	}
	return count
}

func familyName(family int) string {
	if family == unix.AF_INET6 {
		return "ipv6"
	}
	return "ipv4"
}
