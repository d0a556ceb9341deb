// SPDX-License-Identifier: Apache-2.0

package rig

import (
	"fmt"
	"maps"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
)

// Cost is what the programs have done, without what the kernel's functions do for them.
type Cost struct {
	Instructions uint64
	// Bytes are accessed by loads, stores and atomic operations: of maps, packets and contexts. What a function keeps in its
	// own frame does not count, as the compiler decides on that.
	Bytes   uint64
	Calls   map[string]uint64 // how often each program and function began
	Lookups map[string]uint64 // how often each map was looked into
}

// NewCost is that of nothing.
func NewCost() Cost {
	return Cost{Calls: make(map[string]uint64), Lookups: make(map[string]uint64)}
}

// Add adds another cost.
func (c *Cost) Add(other Cost) {
	c.Instructions, c.Bytes = c.Instructions+other.Instructions, c.Bytes+other.Bytes
	for name, count := range other.Calls {
		c.Calls[name] += count
	}
	for name, count := range other.Lookups {
		c.Lookups[name] += count
	}
}

// blocksMap counts how often each basic block ran. The cost follows from that and from the block's instructions.
const blocksMap = "blocks"

// block is a basic block of the programs, as it was before it counted.
type block struct {
	function            string // that begins with it
	instructions, bytes uint64
	lookups             []string // names of maps
}

// join adds what another block costs.
func (b *block) join(other block) {
	b.instructions, b.bytes = b.instructions+other.instructions, b.bytes+other.bytes
	b.lookups = append(b.lookups, other.lookups...)
}

// addCosts has every basic block of the programs count how often it runs. It returns the blocks in the order of the counters.
func addCosts(spec *ebpf.CollectionSpec) (blocks []block, err error) {
	for _, name := range slices.Sorted(maps.Keys(spec.Programs)) {
		program := spec.Programs[name]
		if program.Instructions, blocks, err = countBlocks(program.Instructions, blocks); err != nil {
			return nil, fmt.Errorf("have %s count what it costs: %w", name, err)
		}
	}
	spec.Maps[blocksMap] = &ebpf.MapSpec{Name: blocksMap, Type: ebpf.Array, KeySize: 4, ValueSize: uint32(8 * len(blocks)), MaxEntries: 1}
	return blocks, nil
}

// countBlocks puts counting into each block of a program, and the blocks behind those that there are.
func countBlocks(all asm.Instructions, blocks []block) (counting asm.Instructions, _ []block, err error) {
	targets, err := labelTargets(all)
	if err != nil {
		return nil, nil, err
	}
	free, asked := freeRegisters(all, targets), ""
	for begin, end := 0, 0; begin < len(all); begin = end {
		for end = begin + 1; end < len(all) && all[end].Symbol() == "" && !endsBlock(all[end-1]); {
			end++
		}
		place := begin
		for place < end && (len(free[place]) < 2 || btf.FuncMetadata(&all[place]) != nil) { // which stays the first
			place++
		}
		var b block
		b, asked = describe(all[begin:end], asked)
		if place == end { // a few blocks: taken to run as often as the one before
			if b.function != "" {
				return nil, nil, fmt.Errorf("%s begins with no place to count", b.function)
			}
			counting = append(counting, all[begin:end]...)
			blocks[len(blocks)-1].join(b)
			continue
		}
		now := countRun(free[place][0], free[place][1], len(blocks))
		if place == begin { // where jumps lead to
			now[0] = now[0].WithSymbol(all[begin].Symbol())
			all[begin] = all[begin].WithSymbol("")
		}
		counting = append(append(append(counting, all[begin:place]...), now...), all[place:end]...)
		blocks = append(blocks, b)
	}
	return counting, blocks, nil
}

// countRun adds one to a counter.
func countRun(address, one asm.Register, counter int) asm.Instructions {
	return asm.Instructions{
		asm.LoadMapValue(address, 0, uint32(8*counter)).WithReference(blocksMap),
		asm.Mov.Imm(one, 1),
		asm.AddAtomic.Mem(address, one, asm.DWord, 0),
	}
}

// describe says what one run of a block costs. The map that a lookup asks may have been loaded by a block before.
func describe(instructions asm.Instructions, asked string) (b block, _ string) {
	if function := btf.FuncMetadata(&instructions[0]); function != nil {
		b.function = function.Name
	}
	for _, ins := range instructions {
		b.instructions++
		switch base, class := ins.Dst, ins.OpCode.Class(); {
		case ins.IsLoadFromMap() && ins.Src == asm.PseudoMapFD && ins.Dst == asm.R1:
			asked = ins.Reference()
		case ins.IsBuiltinCall() && asm.BuiltinFunc(ins.Constant) == asm.FnMapLookupElem:
			b.lookups = append(b.lookups, asked)
		case class == asm.LdXClass, class.IsStore():
			if class == asm.LdXClass {
				base = ins.Src
			}
			if base != asm.RFP {
				b.bytes += uint64(ins.OpCode.Size().Sizeof())
			}
		}
	}
	return b, asked
}

// Cost returns what the programs have done since the last call.
func (d *Datapath) Cost() (Cost, error) {
	cost := NewCost()
	runs := make([]uint64, len(d.blocks))
	if err := d.blockRuns.Lookup(uint32(0), &runs); err != nil {
		return cost, fmt.Errorf("read how often blocks ran: %w", err)
	}
	if err := d.blockRuns.Put(uint32(0), make([]uint64, len(runs))); err != nil {
		return cost, fmt.Errorf("begin to count anew: %w", err)
	}
	for i, b := range d.blocks {
		if runs[i] == 0 {
			continue
		}
		cost.Instructions += runs[i] * b.instructions
		cost.Bytes += runs[i] * b.bytes
		if b.function != "" {
			cost.Calls[b.function] += runs[i]
		}
		for _, name := range b.lookups {
			cost.Lookups[name] += runs[i]
		}
	}
	return cost, nil
}
