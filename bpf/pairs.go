// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"unsafe"

	"github.com/cilium/ebpf"
)

// SizePairSlots has each CPU have its slots, of maps that are as the object describes them.
func SizePairSlots(maps map[string]*ebpf.MapSpec) {
	maps[DatapathMapPairSlots].MaxEntries *= uint32(ebpf.MustPossibleCPU())
}

// EachPairSlot calls visit for every slot that has a pair, in memory in which the programs count meanwhile.
func (m *DatapathMaps) EachPairSlot(visit func(*DatapathPairSlot)) error {
	const size = uint32(unsafe.Sizeof(DatapathPairSlot{}))
	for first := uint32(0); first < m.PairSlots.MaxEntries(); first += atOnce {
		count := min(atOnce, m.PairSlots.MaxEntries()-first)
		err := mapped(m.PairSlots, first*size, count*size, func(slots []byte) {
			for i := range count {
				if slot := at[DatapathPairSlot](slots, i*size); slot.Pair.Family != 0 {
					visit(slot)
				}
			}
		})
		if err != nil {
			return err
		}
	}
	return nil
}
