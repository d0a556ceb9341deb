// SPDX-License-Identifier: Apache-2.0

package bpf

// Region is where a flow table is in the maps that all of them share: the number of its first set, and how many it has.
type Region struct{ First, Sets uint32 }

// Regions returns those of the flow tables, by enum table, which have so many sets: as first_of() in src/table.h.
func Regions(halfOpen, established, connectionless uint32) [DatapathTableTABLE_END]Region {
	return [...]Region{
		DatapathTableTABLE_HALF_OPEN:      {established + connectionless, halfOpen},
		DatapathTableTABLE_ESTABLISHED:    {0, established},
		DatapathTableTABLE_CONNECTIONLESS: {established, connectionless},
	}
}
