// SPDX-License-Identifier: Apache-2.0

package rig

import (
	"errors"
	"slices"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
	"golang.org/x/sys/unix"

	"replypath/bpf"
)

// What is changed in the programs, for what BPF_PROG_TEST_RUN cannot bring about.

// meanwhileMap holds what another CPU writes, and meanwhileFunction is what writes it.
const (
	meanwhileMap      = "meanwhile"
	meanwhileFunction = "rig_meanwhile"
)

// write is what another CPU writes: its only element.
type write struct {
	Cell, Bucket uint32 // 0: nothing
	Flow         bpf.DatapathFlow
	Places       bpf.DatapathBucket
}

// Meanwhile has another CPU enter a flow under this digest, between the search of an inbound packet for its flow and what
// it changes: a half-open one if it is of TCP, else one that is no conversation. A digest of 0 ends that.
func (d *Datapath) Meanwhile(digest uint64, flow bpf.DatapathFlow) error {
	if digest == 0 {
		return put(d.meanwhile, uint32(0), write{})
	}
	table := d.HalfOpen
	if flow.Tuple.Protocol != unix.IPPROTO_TCP {
		table = d.Connectionless
	}
	const places = uint32(bpf.DatapathPlacePLACES)
	before := slices.Clone(d.Places.Elements)
	err := errors.Join(d.Places.Read(), table.Put(digest, &flow))
	copy(before, d.Places.Elements)
	if err := errors.Join(err, d.Places.Read()); err != nil {
		return err
	}
	for i, place := range d.Places.Elements {
		if place != before[i] {
			w := write{Cell: uint32(i), Bucket: uint32(i) / places, Flow: flow}
			copy(w.Places.Place[:], d.Places.Elements[w.Bucket*places:])
			copy(d.Places.Elements, before)
			return errors.Join(d.Places.Write(), put(d.meanwhile, uint32(0), w))
		}
	}
	return errors.New("the flow is there already")
}

// addMeanwhile puts the writer in the place of questions for prefixes, to which its answer is no. Where an interface has
// gateways that serve all peers, one is asked, between the two: whether the peer is on-link.
func addMeanwhile(spec *ebpf.CollectionSpec) error {
	spec.Maps[meanwhileMap] = &ebpf.MapSpec{
		Name: meanwhileMap, Type: ebpf.Array, KeySize: 4,
		ValueSize: uint32(unsafe.Sizeof(write{})), MaxEntries: 1,
	}
	program := spec.Programs[bpf.DatapathProgReplypathIngress]
	isReplaced, asked := false, ""
	for i := range program.Instructions {
		ins := &program.Instructions[i]
		if ins.IsLoadFromMap() {
			asked = ins.Reference()
		}
		if ins.IsBuiltinCall() && asm.BuiltinFunc(ins.Constant) == asm.FnMapLookupElem && asked == bpf.DatapathMapPrefixes {
			call := asm.Call.Label(meanwhileFunction)
			ins.OpCode, ins.Dst, ins.Src, ins.Constant = call.OpCode, call.Dst, call.Src, call.Constant
			*ins = ins.WithReference(meanwhileFunction)
			isReplaced = true
		}
	}
	if !isReplaced {
		return errors.New("the ingress program does not ask whether a peer is on-link")
	}
	program.Instructions = append(program.Instructions, writer(btf.FuncMetadata(&program.Instructions[0]).Type)...)
	return nil
}

// writer writes the element of the map.
func writer(signature btf.Type) asm.Instructions {
	const key, end = -4, "meanwhile_end"
	update := func(name string, index, value uintptr) asm.Instructions {
		return asm.Instructions{
			asm.LoadMapPtr(asm.R1, 0).WithReference(name),
			asm.Mov.Reg(asm.R2, asm.R6),
			asm.Add.Imm(asm.R2, int32(index)),
			asm.Mov.Reg(asm.R3, asm.R6),
			asm.Add.Imm(asm.R3, int32(value)),
			asm.Mov.Imm(asm.R4, 0),
			asm.FnMapUpdateElem.Call(),
		}
	}
	function := asm.Instructions{
		asm.StoreImm(asm.RFP, key, 0, asm.Word),
		asm.LoadMapPtr(asm.R1, 0).WithReference(meanwhileMap),
		asm.Mov.Reg(asm.R2, asm.RFP),
		asm.Add.Imm(asm.R2, key),
		asm.FnMapLookupElem.Call(),
		asm.JEq.Imm(asm.R0, 0, end),
		asm.LoadMem(asm.R1, asm.R0, 0, asm.DWord),
		asm.JEq.Imm(asm.R1, 0, end),
		asm.Mov.Reg(asm.R6, asm.R0),
	}
	function = append(function, update(bpf.DatapathMapCells, unsafe.Offsetof(write{}.Cell), unsafe.Offsetof(write{}.Flow))...)
	function = append(function, update(bpf.DatapathMapBuckets, unsafe.Offsetof(write{}.Bucket), unsafe.Offsetof(write{}.Places))...)
	function[0] = btf.WithFuncMetadata(function[0].WithSymbol(meanwhileFunction).WithSource(asm.Comment("another CPU")),
		&btf.Func{Name: meanwhileFunction, Type: signature, Linkage: btf.StaticFunc})
	return append(function, asm.Mov.Imm(asm.R0, 0).WithSymbol(end), asm.Return())
}
