// SPDX-License-Identifier: Apache-2.0

package rig

import (
	"fmt"
	"maps"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
)

// lookupsMap counts lookups, by map in the order of their names.
const lookupsMap = "lookups"

// addLookupCounts has the programs count how often they look into each map. It returns the maps' names, in the
// order of the counters.
func addLookupCounts(spec *ebpf.CollectionSpec) ([]string, error) {
	names := slices.Sorted(maps.Keys(spec.Maps))
	spec.Maps[lookupsMap] = &ebpf.MapSpec{Name: lookupsMap, Type: ebpf.Array, KeySize: 4, ValueSize: uint32(8 * len(names)), MaxEntries: 1}
	for _, program := range spec.Programs {
		if err := countLookups(program, names); err != nil {
			return nil, fmt.Errorf("%s: %w", program.Name, err)
		}
	}
	return names, nil
}

// countLookups puts the counting before each call. Two registers are free there, as the function takes two arguments only.
func countLookups(program *ebpf.ProgramSpec, names []string) error {
	asked := ""
	for i := 0; i < len(program.Instructions); i++ {
		ins := program.Instructions[i]
		if ins.IsLoadFromMap() && ins.Dst == asm.R1 {
			asked = ins.Reference()
		}
		if !ins.IsBuiltinCall() || asm.BuiltinFunc(ins.Constant) != asm.FnMapLookupElem {
			continue
		}
		number := slices.Index(names, asked)
		if number < 0 {
			return fmt.Errorf("instruction %d looks into %q", i, asked)
		}
		count := asm.Instructions{
			asm.LoadMapValue(asm.R3, 0, uint32(8*number)).WithReference(lookupsMap),
			asm.LoadMem(asm.R4, asm.R3, 0, asm.DWord),
			asm.Add.Imm(asm.R4, 1),
			asm.StoreMem(asm.R3, 0, asm.R4, asm.DWord),
		}
		begin, end := functionAround(program.Instructions, i)
		var width asm.RawInstructionOffset
		for _, ins := range count {
			width += ins.Width()
		}
		widenJumps(program.Instructions[begin:end], i-begin, int16(width))
		program.Instructions = slices.Insert(program.Instructions, i, count...)
		i += len(count)
	}
	return nil
}

// functionAround is where the instructions of the function are that this one is of.
func functionAround(all asm.Instructions, at int) (begin, end int) {
	begin, end = 0, len(all)
	for i := range all {
		if all[i].Symbol() == "" {
			continue
		}
		if i <= at {
			begin = i
		} else {
			return begin, i
		}
	}
	return begin, end
}

// Lookups returns how often the programs have looked into each map since the last call, without maps into which they did
// not look.
func (d *Datapath) Lookups() (map[string]uint64, error) {
	counts := make([]uint64, len(d.looked))
	if err := d.lookups.Lookup(uint32(0), &counts); err != nil {
		return nil, fmt.Errorf("read how often maps were looked into: %w", err)
	}
	if err := d.lookups.Put(uint32(0), make([]uint64, len(counts))); err != nil {
		return nil, fmt.Errorf("begin to count anew: %w", err)
	}
	found := make(map[string]uint64)
	for i, count := range counts {
		if count != 0 {
			found[d.looked[i]] = count
		}
	}
	return found, nil
}
