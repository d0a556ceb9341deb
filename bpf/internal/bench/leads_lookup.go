// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"

	"replypath/bpf"
	"replypath/bpf/internal/rig"
)

const (
	tupleSize = int(unsafe.Sizeof(bpf.DatapathTuple{}))
	keyAt     = -int16(tupleSize) // of the stack
	indexAt   = keyAt - 4
	leadPort  = 5432
	leadRoom  = 1024 // what a table is made for at least
)

// lookup leaves in R0 what it has found, of which this word is the interface, or 0.
type lookup struct {
	name    string
	ifindex uintptr
	find    func() asm.Instructions
}

// lookupCases are hits and misses in tables of one flow and of a million, which have room for half as many again.
func (l *leads) lookupCases() (all []testCase, err error) {
	for _, count := range []uint32{1, 1 << 20} {
		tuples := make([]bpf.DatapathTuple, count)
		for i := range tuples {
			tuples[i] = leadTuple(uint32(i), leadPort)
		}
		for _, fill := range []func([]bpf.DatapathTuple) (lookup, error){
			l.ownTable, l.kernelTable("hash", ebpf.Hash, 0),
			l.kernelTable("hash, not preallocated", ebpf.Hash, unix.BPF_F_NO_PREALLOC), l.kernelTable("LRU hash", ebpf.LRUHash, 0),
		} {
			table, err := fill(tuples)
			if err != nil {
				return nil, err
			}
			for _, hit := range []bool{true, false} {
				c, err := l.lookupCase(table, count, hit)
				if err != nil {
					return nil, err
				}
				all = append(all, c)
			}
		}
	}
	return all, nil
}

func leadTuple(index uint32, port uint16) bpf.DatapathTuple {
	return rig.Tuple(unix.IPPROTO_TCP, netip.AddrPortFrom(v4.one(index), peerPort), netip.AddrPortFrom(v4.self, port))
}

// ownTable is a flow table of ours. For one flow in some ten thousand there is no room.
func (l *leads) ownTable(tuples []bpf.DatapathTuple) (lookup, error) {
	set := bpf.DatapathFlowSet{}
	d, err := rig.Load(rig.Options{Sets: max(uint32(len(tuples))*3/2, leadRoom) / uint32(len(set.Flow))})
	if err != nil {
		return lookup{}, err
	}
	l.owned = append(l.owned, d)
	for _, tuple := range tuples {
		if err := d.AddFlow(d.Established, bpf.DatapathFlow{Tuple: tuple}); err != nil && !errors.Is(err, rig.ErrFull) {
			return lookup{}, fmt.Errorf("enter the flow of a lead: %w", err)
		}
	}
	return lookup{"sets of ours", unsafe.Offsetof(set.Flow) + unsafe.Offsetof(set.Flow[0].Ifindex),
		func() asm.Instructions { return findOwn(d) }}, nil
}

// kernelTable holds what is in a flow besides its tuple.
func (l *leads) kernelTable(name string, kind ebpf.MapType, flags uint32) func([]bpf.DatapathTuple) (lookup, error) {
	type rest [unsafe.Sizeof(bpf.DatapathFlow{}) - uintptr(tupleSize)]byte
	return func(tuples []bpf.DatapathTuple) (lookup, error) {
		table, err := l.newMap(ebpf.MapSpec{Type: kind, Flags: flags, KeySize: uint32(tupleSize),
			ValueSize: uint32(len(rest{})), MaxEntries: max(uint32(len(tuples))*3/2, leadRoom)})
		if err != nil {
			return lookup{}, err
		}
		if _, err := table.BatchUpdate(tuples, make([]rest, len(tuples)), nil); err != nil {
			return lookup{}, fmt.Errorf("fill the %s of a lead: %w", name, err)
		}
		return lookup{name, unsafe.Offsetof(bpf.DatapathFlow{}.Ifindex) - uintptr(tupleSize),
			func() asm.Instructions { return lookUp(table, keyAt) }}, nil
	}
}

// lookUp looks up the key that is here on the stack.
func lookUp(table *ebpf.Map, key int16) asm.Instructions {
	return asm.Instructions{
		asm.LoadMapPtr(asm.R1, table.FD()),
		asm.Mov.Reg(asm.R2, asm.R10),
		asm.Add.Imm(asm.R2, int32(key)),
		asm.FnMapLookupElem.Call(),
	}
}

// lookupCase has what makes the key taken off. Whatever is found is read; what ends otherwise is counted.
func (l *leads) lookupCase(table lookup, count uint32, hit bool) (testCase, error) {
	const nobody = 0x7fffffff // an ifindex that no interface has
	others, err := l.newMap(ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 8, MaxEntries: 1})
	if err != nil {
		return testCase{}, err
	}
	name, tuple, ends := "miss", leadTuple(0, leadPort+1), asm.Instructions{asm.JEq.Imm(asm.R0, 0, "done")}
	if hit {
		name, tuple, ends = "hit", leadTuple(0, leadPort), asm.Instructions{
			asm.JEq.Imm(asm.R0, 0, "other"),
			asm.LoadMem(asm.R1, asm.R0, int16(table.ifindex), asm.Word),
			asm.JNE.Imm(asm.R1, nobody, "done"),
		}
	}
	program, err := l.program(slices.Concat(makeKey(tuple, count), table.find(), ends, asm.Instructions{
		asm.LoadMapValue(asm.R1, others.FD(), 0).WithSymbol("other"),
		asm.Mov.Imm(asm.R2, 1),
		asm.AddAtomic.Mem(asm.R1, asm.R2, asm.DWord, 0),
	}))
	if err != nil {
		return testCase{}, err
	}
	baseline, err := l.program(makeKey(tuple, count))
	c := l.lead(fmt.Sprintf("%s, one of %d, %s", table.name, count, name), program, baseline)
	c.prove = func(c *testCase) error { return c.wantFew(others) }
	return c, err
}

// wantFew wants hardly any run to be counted.
func (c *testCase) wantFew(counted *ebpf.Map) error {
	const runs = 100_000
	if _, err := c.program.Run(c.options(runs)); err != nil {
		return err
	}
	var count uint64
	if err := counted.Lookup(uint32(0), &count); err != nil {
		return fmt.Errorf("read how many lookups ended otherwise: %w", err)
	}
	if count > runs/20 {
		return fmt.Errorf("%d of %d lookups ended otherwise", count, runs)
	}
	return nil
}

// makeKey writes the tuple with one of so many peers, in as large pieces as it is read: see writeRandomPeer().
func makeKey(tuple bpf.DatapathTuple, peers uint32) (key asm.Instructions) {
	for i, word := range *(*[tupleSize / 8]uint64)(unsafe.Pointer(&tuple)) {
		key = append(key, asm.LoadImm(asm.R1, int64(word), asm.DWord), asm.StoreMem(asm.R10, keyAt+int16(8*i), asm.R1, asm.DWord))
	}
	return append(key,
		asm.FnGetPrandomU32.Call(),
		asm.And.Imm(asm.R0, int32(peers-1)),
		asm.Or.Imm(asm.R0, crowdBase),
		asm.LoadImm(asm.R1, 0xffff<<32, asm.DWord), // ::ffff:0:0/96
		asm.Or.Reg(asm.R0, asm.R1),
		asm.HostTo(asm.BE, asm.R0, asm.DWord),
		asm.StoreMem(asm.R10, keyAt+8, asm.R0, asm.DWord),
	)
}
