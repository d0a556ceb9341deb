// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"net"
	"net/netip"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/gopacket/gopacket/layers"

	"replypath/bpf"
	"replypath/bpf/internal/rig"
)

// flows is how many each map has room for: the default of flow_table.max_entries.
const flows = 262_144

// The array indexes of the interfaces and of their gateways: the device of each is the one before.
const (
	production = 1 + iota
	replication
	another

	devices = another
)

var (
	gatewayMAC = net.HardwareAddr{2, 0, 0, 0, 1, 1} // of the replication interface
	routerMAC  = net.HardwareAddr{2, 0, 0, 0, 1, 0} // of the production interface

	v4 = endpoints{"ipv4", netip.MustParseAddr("10.1.0.100"), netip.MustParseAddr("10.4.0.100")}
	v6 = endpoints{"ipv6", netip.MustParseAddr("fd00:1::100"), netip.MustParseAddr("fd00:4::100")}
)

type endpoints struct {
	family     string
	peer, self netip.Addr
}

// from are the same packets of another address of the host's side.
func (e endpoints) from(v4, v6 string) endpoints {
	e.self = netip.MustParseAddr(map[string]string{"ipv4": v4, "ipv6": v6}[e.family])
	return e
}

// echo is the protocol of echo requests.
func (e endpoints) echo() layers.IPProtocol {
	if e.family == "ipv6" {
		return layers.IPProtocolICMPv6
	}
	return layers.IPProtocolICMPv4
}

// bench is a datapath and the cases of it.
type bench struct {
	host     *rig.Host
	datapath *rig.Datapath
	empty    *ebpf.Program
	cases    []*testCase
	now      uint32         // ticks, when the maps were filled
	entered  map[entry]bool // flows
	err      error          // of what was entered and loaded for the cases
}

// device is that of the interface with this array index.
func (b *bench) device(index int) rig.Device { return b.host.Devices[index-1] }

// fill writes what the loader would write for a host with two interfaces.
func (b *bench) fill() (err error) {
	if b.now, err = b.datapath.Now(); err != nil {
		return err
	}
	d := b.datapath
	gateway := func(index int, address string, mac net.HardwareAddr) error {
		return d.SetGateway(uint32(index), bpf.DatapathGateway{
			Address: netip.MustParseAddr(address).As16(), Ifindex: b.device(index).Index, Mac: rig.MAC(mac), Usable: 1,
		})
	}
	return errors.Join(
		d.SetSettings(bpf.DatapathSettings{Protocols: rig.Listed(1, 6, 17, 58, 132)}),
		d.SetInterface(production, rig.Record(b.device(production), production)),
		d.SetInterface(replication, rig.Record(b.device(replication), replication)),
		gateway(production, "10.3.0.1", routerMAC),
		gateway(replication, "10.4.0.1", gatewayMAC),
		d.SetOwnAddress(v4.self, bpf.DatapathOwnFlagsOWN_ADDRESS),
		d.SetOwnAddress(v6.self, bpf.DatapathOwnFlagsOWN_ADDRESS),
	)
}

// ingress adds a case of a frame that comes in by an interface, and passes.
func (b *bench) ingress(e endpoints, name string, l limit, by int, frame []byte) *testCase {
	c := &testCase{
		bench: b, name: name + ", " + e.family, limit: l, program: b.datapath.ReplypathIngress, baseline: b.empty,
		frame: frame, ifindex: b.device(by).Index, verdict: tcActUnspec,
	}
	b.cases = append(b.cases, c)
	return c
}

// egress adds a case of a frame that leaves by an interface, and passes.
func (b *bench) egress(e endpoints, name string, l limit, by int, frame []byte) *testCase {
	c := b.ingress(e, name, l, by, frame)
	c.program = b.datapath.ReplypathEgress
	return c
}

// egressAnew is egress for a packet that the programs note as the last one that was sent.
func (b *bench) egressAnew(e endpoints, name string, l limit, by int, frame []byte) *testCase {
	c := b.egress(e, name, l, by, frame)
	c.before = b.unmark
	return c
}

// moved adds a case of a reply that another interface sends.
func (b *bench) moved(e endpoints, name string, l limit, by int, frame []byte) *testCase {
	c := b.egressAnew(e, name, l, by, frame)
	c.verdict = tcActRedirect
	return c
}

// in is a frame of the peer, out one of the host.
func (b *bench) in(e endpoints, protocol layers.IPProtocol, port uint16, by int) []byte {
	return frame(gatewayMAC, b.device(by).MAC, protocol, netip.AddrPortFrom(e.peer, peerPort), netip.AddrPortFrom(e.self, port))
}

func (b *bench) out(e endpoints, protocol layers.IPProtocol, port uint16, by int) []byte {
	return frame(b.device(by).MAC, routerMAC, protocol, netip.AddrPortFrom(e.self, port), netip.AddrPortFrom(e.peer, peerPort))
}

// lasting is how many ticks ahead a time can be at most: 17 minutes at 1000 Hz.
const lasting = uint32(bpf.DatapathTickTICKS_AHEAD) - 1

// flow came in by this interface, and its peer goes on asking while this is measured.
func (b *bench) flow(e endpoints, protocol layers.IPProtocol, port uint16, by int) bpf.DatapathFlow {
	flow := bpf.DatapathFlow{
		Tuple:     rig.Tuple(uint8(protocol), netip.AddrPortFrom(e.peer, peerPort), netip.AddrPortFrom(e.self, port)),
		Seen:      b.now + lasting,
		Created:   b.now,
		Ifindex:   b.device(by).Index,
		Interface: uint16(by),
		Gateway:   uint16(by),
		Mac:       rig.MAC(gatewayMAC),
		Flags:     uint16(bpf.DatapathFlowFlagsFLOW_NEXT_HOP_GATEWAY),
	}
	if protocol != tcp { // a conversation
		flow.State, flow.Flags = uint8(bpf.DatapathFlowStateFLOW_REPLIED), flow.Flags|uint16(bpf.DatapathFlowFlagsFLOW_ASSURED)
	}
	return flow
}

// entry is a flow in a table.
type entry struct {
	table *bpf.FlowTable
	tuple bpf.DatapathTuple
}

// try keeps the errors of what the cases need.
func (b *bench) try(errs ...error) { b.err = errors.Join(append(errs, b.err)...) }

// enter enters a flow once.
func (b *bench) enter(table *bpf.FlowTable, flow bpf.DatapathFlow) {
	if at := (entry{table, flow.Tuple}); !b.entered[at] {
		b.entered[at] = true
		b.try(b.datapath.AddFlow(table, flow))
	}
}

// enterFlow enters a flow where flows of its protocol are.
func (b *bench) enterFlow(e endpoints, protocol layers.IPProtocol, port uint16, by int) {
	table := b.datapath.Connectionless
	if protocol == layers.IPProtocolTCP {
		table = b.datapath.Established
	}
	b.enter(table, b.flow(e, protocol, port, by))
}

// scratch has R0 point to the programs' memory of the CPU, and does something with that.
func (b *bench) scratch(with ...asm.Instruction) asm.Instructions {
	return append(asm.Instructions{
		asm.FnGetSmpProcessorId.Call(),
		asm.And.Imm(asm.R0, int32(bpf.MaxCPUs-1)),
		asm.Mul.Imm(asm.R0, int32(unsafe.Sizeof(bpf.DatapathScratch{}))),
		asm.LoadMapValue(asm.R1, b.datapath.Scratch.FD(), 0),
		asm.Add.Reg(asm.R1, asm.R0),
		asm.Mov.Reg(asm.R0, asm.R1),
	}, with...)
}

// unmark makes every packet look as if it had just been sent, and the one before as if it had come to its target: what
// never came is counted as lost.
func (b *bench) unmark() asm.Instructions {
	return append(asm.Instructions{
		asm.Mov.Imm(asm.R1, 0),
		asm.StoreMem(asm.R6, offsetTCIndex, asm.R1, asm.Word),
	}, b.scratch(asm.StoreImm(asm.R0, handoverIfindex, 0, asm.Word))...)
}

// arrive makes every packet look as if it had just been moved to this
// interface: what the program there takes away is set anew.
func (b *bench) arrive(by int) asm.Instructions {
	return b.scratch(
		asm.StoreImm(asm.R0, handoverIfindex, int64(b.device(by).Index), asm.Word),
		asm.StoreImm(asm.R0, handoverMark, arrivalMark, asm.Half),
		asm.Mov.Imm(asm.R1, arrivalMark),
		asm.StoreMem(asm.R6, offsetTCIndex, asm.R1, asm.Word))
}
