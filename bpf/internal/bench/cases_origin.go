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

// originCases are packets that the host originates from another interface's address than the kernel chose.
func (r *rare) originCases(e endpoints) (all []testCase, err error) {
	const port = 443
	e.self = originFrom[e.family]
	for _, protocol := range []layers.IPProtocol{layers.IPProtocolTCP, layers.IPProtocolUDP} {
		c := r.egress(fmt.Sprintf("egress redirect: %s, originated, %s", name(protocol), e.family), boundOriginated, 0,
			production, outbound(e, protocol, port, r.device(production).MAC))
		c.verdict = tcActRedirect // counted when it arrives
		c.before = func() asm.Instructions { return append(unmark(), writeSourceMAC(r.device(production).MAC)...) }
		all = append(all, c)
	}
	return all, nil
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
