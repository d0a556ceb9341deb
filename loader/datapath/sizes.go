// SPDX-License-Identifier: Apache-2.0

package datapath

import "replypath/bpf"

// sizes returns how many entries the maps have that grow with the configured number of flows of the largest table, by name.
// That becomes a power of two.
func sizes(flows uint32) map[string]uint32 {
	buckets := bpf.Buckets(flows)
	return map[string]uint32{bpf.DatapathMapBuckets: buckets, bpf.DatapathMapCells: buckets * uint32(bpf.DatapathPlacePLACES)}
}

// flowMaps are those of the table. Where one is another, all are.
var flowMaps = []string{bpf.DatapathMapBuckets, bpf.DatapathMapCells, bpf.DatapathMapBucketLocks}

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
