// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"unsafe"

	"github.com/cilium/ebpf/asm"

	"replypath/bpf"
	"replypath/bpf/internal/rig"
)

// A crowd of a million flows, half of each family, in a table that is made for as
// many: every run of a case meets another one, so that nothing of it is in a cache.
const (
	crowdBits = 19
	crowdSize = 1 << crowdBits // of each family
	// crowdSets is what the loader makes for a million flows: half as many ways again, in sets of eight.
	crowdSets = 2 * crowdSize * 3 / 2 / 8
	// crowdBase is 10.128.0.0, and serves for the end of an IPv6 address as well.
	crowdBase = 0x0a800000
)

// one is the address of one of the crowd: the last 32 bits count.
func (e endpoints) one(index uint32) netip.Addr {
	bytes := e.peer.AsSlice()
	binary.BigEndian.PutUint32(bytes[len(bytes)-4:], crowdBase|index)
	address, _ := netip.AddrFromSlice(bytes)
	return address
}

// crowd adds what most packets do, for a random one of the crowd, each with the least that it can cost.
func (b *bench) crowd(e endpoints) {
	b.try(b.enterCrowd(e))
	source := sourceOffset(e)
	destination := source + len(e.peer.AsSlice())
	for _, known := range []struct {
		*testCase
		peerAt int
	}{
		{b.ingress(e, "ingress refresh: tcp", refresh, replication, b.in(e, tcp, servicePort, replication)), source},
		{b.egress(e, "egress pass: tcp, already right", pass, replication, b.out(e, tcp, servicePort, replication)), destination},
		{b.moved(e, "egress redirect: tcp", redirect, production, b.out(e, tcp, servicePort, production)), destination},
	} {
		known.prove = nil
		floor := *known.testCase
		b.cases = append(b.cases, &floor)
		floor.floored()
		known.name += ", one of 1,048,576"
		known.bound, known.aim = known.bound+crowded.bound, known.aim+crowded.aim
		known.writePeers(e, known.peerAt, crowdSize-1, crowdBase)
	}
}

// enterCrowd fills half of the table. For one flow in some ten thousand there is no room: those of
// the floors go in while it is empty.
func (b *bench) enterCrowd(e endpoints) error {
	if e == v4 {
		for _, e := range []endpoints{v4, v6} {
			b.enterFlow(e, tcp, servicePort, replication)
		}
	}
	full := 0
	for i := range uint32(crowdSize) {
		one := e
		one.peer = e.one(i)
		err := b.datapath.AddFlow(b.datapath.Established, b.flow(one, tcp, servicePort, replication))
		switch {
		case errors.Is(err, rig.ErrFull):
			full++
		case err != nil:
			return fmt.Errorf("enter flow %d of %s: %w", i, e.family, err)
		}
	}
	if full > crowdSize/1000 {
		return fmt.Errorf("no room for %d of %d flows", full, crowdSize)
	}
	return nil
}

// floored makes a case the least that a random flow can cost: the same for one flow, which
// is in a cache, after one read of a random entry of the table, on whose content nothing
// depends but a jump that is never taken. Every table of that size has to be read once.
func (c *testCase) floored() {
	c.name, c.limit = "floor: one read of memory, then "+c.name, limit{}
	c.before = func() asm.Instructions { return append(c.bench.unmark(), c.bench.readEntry()...) }
	c.beforeEmpty = func() asm.Instructions { return append(c.bench.unmark(), asm.FnGetPrandomU32.Call()) }
}

// readEntry loads a word of a random flow.
func (b *bench) readEntry() asm.Instructions {
	const nobody = 0x7fffffff // an ifindex that no interface has
	set, flow := bpf.DatapathFlowSet{}, bpf.DatapathFlow{}
	return asm.Instructions{
		asm.FnGetPrandomU32.Call(),
		asm.Mov.Reg32(asm.R7, asm.R0),
		asm.And.Imm(asm.R7, int32(len(set.Flow)-1)), // the way
		asm.Mul.Imm(asm.R7, int32(unsafe.Sizeof(flow))),
		asm.Mov.Reg32(asm.R0, asm.R0),
		asm.Mul.Imm(asm.R0, crowdSets),
		asm.RSh.Imm(asm.R0, 32),
		asm.Add.Imm(asm.R0, int32(b.datapath.Established.At(0))),
		asm.StoreMem(asm.R10, -4, asm.R0, asm.Word),
		asm.LoadMapPtr(asm.R1, b.datapath.Established.Flows.FD()),
		asm.Mov.Reg(asm.R2, asm.R10),
		asm.Add.Imm(asm.R2, -4),
		asm.FnMapLookupElem.Call(),
		asm.JEq.Imm(asm.R0, 0, "read"),
		asm.Add.Reg(asm.R0, asm.R7),
		asm.LoadMem(asm.R1, asm.R0, int16(unsafe.Offsetof(set.Flow)+unsafe.Offsetof(flow.Ifindex)), asm.Word),
		asm.JNE.Imm(asm.R1, nobody, "read"),
		asm.Mov.Imm(asm.R0, tcActUnspec),
		asm.Return(),
		asm.Mov.Imm(asm.R0, 0).WithSymbol("read"),
	}
}
