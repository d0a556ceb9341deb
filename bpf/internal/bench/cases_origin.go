// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/cilium/ebpf/asm"
	"github.com/gopacket/gopacket/layers"

	"replypath/bpf"
	"replypath/bpf/internal/rig"
)

// strong is the interface whose addresses decide what the host originates from them.
const strong = replication

// originFrom are the addresses of it that no flow has.
var originFrom = map[string]netip.Addr{
	"ipv4": netip.MustParseAddr("10.4.0.101"), "ipv6": netip.MustParseAddr("2001:db8:4::101"),
}

// decideBySource has an interface's own addresses decide, and the peers behind its gateway, as a route says.
func (r *rare) decideBySource() error {
	record := rig.Record(r.device(strong), strong)
	record.Flags |= uint8(bpf.DatapathInterfaceFlagsINTERFACE_STRONG)
	record.FirstGateway4, record.FirstGateway6 = strong, strong
	errs := []error{r.datapath.SetInterface(strong, record)}
	for _, address := range originFrom {
		errs = append(errs, r.datapath.SetOwnAddress(address,
			bpf.DatapathOwnFlagsOWN_ADDRESS|strong<<bpf.DatapathOwnFlagsOWN_INTERFACE_SHIFT))
	}
	return errors.Join(errs...)
}

// originCases are packets that the host originates from another interface's address than the kernel chose: of the first two
// nothing is kept but the record, the last is of an answered connection.
func (r *rare) originCases(e endpoints) (all []testCase, err error) {
	const port, answered = 443, 444
	e.self = originFrom[e.family]
	for _, of := range []struct {
		what     string
		protocol layers.IPProtocol
		port     uint16
		bound    float64
	}{
		{"originated", layers.IPProtocolTCP, port, boundOriginated},
		{"originated", layers.IPProtocolUDP, port, boundOriginated},
		{"originated and answered", layers.IPProtocolTCP, answered, recordedRedirect},
	} {
		c := r.egress(fmt.Sprintf("egress redirect: %s, %s, %s", name(of.protocol), of.what, e.family), of.bound, 0,
			production, outbound(e, of.protocol, of.port, r.device(production).MAC))
		c.verdict = tcActRedirect // counted when it arrives
		c.before = func() asm.Instructions { return append(unmark(), writeSourceMAC(r.device(production).MAC)...) }
		all = append(all, c)
	}
	return all, r.answer(e, answered)
}

// answer enters the connection as bpf/src/answered.h does.
func (r *rare) answer(e endpoints, port uint16) error {
	flow, err := r.flowBy(e, layers.IPProtocolTCP, port, strong)
	if err != nil {
		return err
	}
	var settings bpf.DatapathSettings
	if err := r.datapath.Configuration.Lookup(uint32(0), &settings); err != nil {
		return fmt.Errorf("read settings: %w", err)
	}
	flow.Flags |= uint16(bpf.DatapathFlowFlagsFLOW_ORIGINATED | bpf.DatapathFlowFlagsFLOW_IN_TABLE)
	flow.State = uint8(bpf.DatapathFlowStateFLOW_CORRECTED)
	flow.SndUna, flow.SndNxt = settings.Ways, production
	return r.datapath.AddFlow(r.datapath.Established, flow)
}

// writeSourceMAC makes the packet the host's own again: the last run gave it the MAC of another interface.
func writeSourceMAC(mac net.HardwareAddr) asm.Instructions {
	const offset = 6
	return asm.Instructions{
		asm.LoadMem(asm.R1, asm.R6, offsetData, asm.Word),
		asm.LoadMem(asm.R2, asm.R6, offsetDataEnd, asm.Word),
		asm.Mov.Reg(asm.R3, asm.R1),
		asm.Add.Imm(asm.R3, offset+6),
		asm.JGT.Reg(asm.R3, asm.R2, "written"),
		asm.StoreImm(asm.R1, offset, int64(binary.NativeEndian.Uint32(mac)), asm.Word),
		asm.StoreImm(asm.R1, offset+4, int64(binary.NativeEndian.Uint16(mac[4:])), asm.Half),
		asm.Mov.Imm(asm.R0, 0).WithSymbol("written"),
	}
}
