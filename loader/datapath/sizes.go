// SPDX-License-Identifier: Apache-2.0

package datapath

import "replypath/bpf"

// minNotes is for how many tuples it is remembered at least that the host spoke first by them.
const minNotes = 4096

// sizes returns how many entries the maps have that grow with the configured number of flows of the largest table, by name.
// What is given up first costs little: a peer that is silent for seconds after its first question, or SYN.
// They change together.
func sizes(largest uint32) map[string]uint32 {
	unit := (largest + 3) / 4
	return map[string]uint32{
		bpf.DatapathMapHalfOpen:       unit + bpf.Reserve(),
		bpf.DatapathMapEstablished:    4*unit + bpf.Reserve(),
		bpf.DatapathMapConnectionless: 2*unit + bpf.Reserve(),
		bpf.DatapathMapAssured:        2*unit + bpf.Reserve(),
		bpf.DatapathMapOutbound:       max(unit, minNotes) + bpf.Reserve(),
	}
}

// flowMaps are those of the flow tables.
var flowMaps = []string{
	bpf.DatapathMapHalfOpen, bpf.DatapathMapEstablished, bpf.DatapathMapConnectionless, bpf.DatapathMapAssured,
}

// isSized tells of the maps that sizes has.
func isSized(name string) bool {
	_, is := sizes(0)[name]
	return is
}

var tableNames = [bpf.DatapathTableTABLE_END]string{
	bpf.DatapathTableTABLE_HALF_OPEN:      "half_open",
	bpf.DatapathTableTABLE_ESTABLISHED:    "established",
	bpf.DatapathTableTABLE_CONNECTIONLESS: "connectionless",
}

// TableName is that of a flow table, as the metrics have it.
func TableName(table bpf.DatapathTable) string { return tableNames[table] }
