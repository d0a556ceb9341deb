// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"unsafe"

	"github.com/cilium/ebpf"

	"replypath/bpf"
)

// The tables grow by units. One has the half-open connections that the configured number of established ones needs; the
// others have fixed multiples of it. So the size of the map that they share tells where each of them is.
const (
	halfOpenUnits       = 1
	establishedUnits    = 4
	connectionlessUnits = 2
	allUnits            = halfOpenUnits + establishedUnits + connectionlessUnits
)

// setBytes is what a set of flows takes.
const setBytes = uint64(unsafe.Sizeof(bpf.DatapathFlowSet{}))

// mostUnits keep the map below 4 GiB: kernels before 5.11 make none that is larger, and those before 6.0 take its sets
// for others. The ways that are meant to stay free are fewer then.
const mostUnits = (1<<32 - 1<<20) / (allUnits * setBytes)

// unitFor returns how many sets a unit has for the configured number of flows of the largest table. The tables have half as many
// ways again as they are meant to hold flows: with two sets to choose from, there is then a free way for all but one
// new flow in ten thousand, even in a full table (TestCapacity).
func unitFor(largest uint32) uint32 {
	const flows = 2 * establishedUnits * uint64(bpf.DatapathWaysWAYS) // of two units: 3/2 ways for each
	return uint32(min((3*uint64(largest)+flows-1)/flows, mostUnits))
}

// sizes returns how many entries the maps have that grow with the configured number of flows of the largest table, by name.
func sizes(largest uint32) map[string]uint32 {
	unit := unitFor(largest)
	return map[string]uint32{
		bpf.DatapathMapFlows: allUnits * unit,
		bpf.DatapathMapTags:  allUnits * unit,
		// The kernel keeps some free on each CPU (kernel/bpf/bpf_lru_list.c).
		bpf.DatapathMapOutbound: max(largest/4, minNotes),
	}
}

// minNotes is for how many tuples it is remembered at least that the host spoke first by them.
const minNotes = 4096

// regions returns where the flow tables are in a map of so many sets.
func regions(sets uint32) [bpf.DatapathTableTABLE_END]bpf.Region {
	unit := sets / allUnits
	return bpf.Regions(halfOpenUnits*unit, establishedUnits*unit, connectionlessUnits*unit)
}

// setsOf returns how many sets every table has in maps of these sizes.
func setsOf(sizes map[string]uint32) (sets [bpf.DatapathTableTABLE_END]uint32) {
	for table, region := range regions(sizes[bpf.DatapathMapFlows]) {
		sets[table] = region.Sets
	}
	return sets
}

// isSized tells of the maps that sizes has.
func isSized(name string) bool {
	_, is := sizes(0)[name]
	return is
}

func places(sets uint32) uint64 { return uint64(sets) * uint64(bpf.DatapathWaysWAYS) }

// Capacity returns how many flows a map of sets is meant for.
func Capacity(sets *ebpf.Map) int { return capacity(sets.MaxEntries()) }

func capacity(sets uint32) int { return int(places(sets) * 2 / 3) }

// largestCapacity is that of the largest of the tables that share a map of so many sets.
func largestCapacity(sets uint32) int {
	return capacity(regions(sets)[bpf.DatapathTableTABLE_ESTABLISHED].Sets)
}
