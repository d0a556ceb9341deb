// SPDX-License-Identifier: Apache-2.0

package rig

import (
	"errors"
	"fmt"
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

// interrupted are the maps that another CPU may write, in the order of the elements of that map.
var interrupted = []string{bpf.DatapathMapHalfOpen, bpf.DatapathMapConnectionless}

// write is an element of it.
type write struct {
	Digest uint64 // 0: none
	Flow   bpf.DatapathFlow
}

// Meanwhile has another CPU enter a flow under this digest, between the search of an inbound packet for its flow and what
// it changes: a half-open one if it is of TCP, else one that is no conversation. A digest of 0 ends that.
func (d *Datapath) Meanwhile(digest uint64, flow bpf.DatapathFlow) error {
	index := uint32(0)
	if flow.Tuple.Protocol != unix.IPPROTO_TCP {
		index = 1
	}
	var none write
	return errors.Join(put(d.meanwhile, 1-index, none), put(d.meanwhile, index, write{digest, flow}))
}

// addMeanwhile puts the writer in the place of questions for prefixes, to which its answer is no. Where an interface has
// gateways that serve all peers, one is asked, between the two: whether the peer is on-link.
func addMeanwhile(spec *ebpf.CollectionSpec) error {
	spec.Maps[meanwhileMap] = &ebpf.MapSpec{
		Name: meanwhileMap, Type: ebpf.Array, KeySize: 4,
		ValueSize: uint32(unsafe.Sizeof(write{})), MaxEntries: uint32(len(interrupted)),
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

// writer enters the elements of the map.
func writer(signature btf.Type) (function asm.Instructions) {
	const key = -4
	for index, name := range interrupted {
		next := fmt.Sprintf("meanwhile_%d", index+1)
		function = append(function,
			asm.StoreImm(asm.RFP, key, int64(index), asm.Word).WithSymbol(fmt.Sprintf("meanwhile_%d", index)),
			asm.LoadMapPtr(asm.R1, 0).WithReference(meanwhileMap),
			asm.Mov.Reg(asm.R2, asm.RFP),
			asm.Add.Imm(asm.R2, key),
			asm.FnMapLookupElem.Call(),
			asm.JEq.Imm(asm.R0, 0, next),
			asm.LoadMem(asm.R1, asm.R0, 0, asm.DWord),
			asm.JEq.Imm(asm.R1, 0, next),
			asm.LoadMapPtr(asm.R1, 0).WithReference(name),
			asm.Mov.Reg(asm.R2, asm.R0),
			asm.Mov.Reg(asm.R3, asm.R0),
			asm.Add.Imm(asm.R3, int32(unsafe.Offsetof(write{}.Flow))),
			asm.Mov.Imm(asm.R4, 0),
			asm.FnMapUpdateElem.Call(),
		)
	}
	function[0] = btf.WithFuncMetadata(function[0].WithSymbol(meanwhileFunction).WithSource(asm.Comment("another CPU")),
		&btf.Func{Name: meanwhileFunction, Type: signature, Linkage: btf.StaticFunc})
	return append(function,
		asm.Mov.Imm(asm.R0, 0).WithSymbol(fmt.Sprintf("meanwhile_%d", len(interrupted))), asm.Return())
}
