// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf/asm"
	"github.com/gopacket/gopacket/layers"

	"replypath/bpf"
	"replypath/bpf/internal/rig"
)

const (
	// Each packet has a flow of its own.
	portMoved = 6500 + iota
	portLinkDown
	portNoNextHop

	// strong is the interface whose addresses decide what the host originates from them.
	strong = replication
	// weak is one where the peers' own flows do.
	weak = unresolved
)

// rare adds the ways through the programs that few packets take, and that few hosts have: interfaces that cannot be
// used, that have no Ethernet header or hold the fallback route, and flows that follow their last packet.
func (b *bench) rare(e endpoints) {
	if e == v4 {
		b.try(b.manage(), b.hold())
	}
	for _, add := range []func(endpoints){
		b.headerlessCases, b.fallbackCases, b.heldCases, b.fragmentCases,
		b.echoCases, b.errorCases, b.movedCases, b.leftCases, b.originCases,
	} {
		add(e)
	}
}

// manage adds the interfaces and addresses that only these cases have.
func (b *bench) manage() error {
	errs := []error{
		b.device(unplugged).SetCarrier(false),
		b.datapath.SetSettings(bpf.DatapathSettings{
			Protocols:         rig.Listed(1, 6, 17, 58, 132),
			Follow:            uint8(bpf.DatapathFollowFOLLOW_LATEST),
			RoutingGeneration: 1,
			Related:           1,
		}),
		b.datapath.SetGateway(unresolved, bpf.DatapathGateway{Ifindex: b.device(unresolved).Index}),
	}
	withoutHeader := func(i *bpf.DatapathInterface) {
		i.Flags |= uint8(bpf.DatapathInterfaceFlagsINTERFACE_NO_HEADER)
		i.Mac = [6]uint8{}
		i.Gateways4, i.Gateways6, i.Gateway4, i.Gateway6 = 0, 0, 0, 0
	}
	for index, change := range map[int]func(*bpf.DatapathInterface){
		unplugged:     func(*bpf.DatapathInterface) {},
		unresolved:    func(i *bpf.DatapathInterface) { i.NextHop = uint8(bpf.DatapathNextHopModeNEXT_HOP_GATEWAY) },
		headerless:    withoutHeader,
		headerlessToo: withoutHeader,
		strong: func(i *bpf.DatapathInterface) { // of the peers, which are behind its gateway, as a route says
			i.Flags |= uint8(bpf.DatapathInterfaceFlagsINTERFACE_STRONG)
			i.FirstGateway4, i.FirstGateway6 = strong, strong
		},
	} {
		record := rig.Record(b.device(index), uint16(index))
		change(&record)
		errs = append(errs, b.datapath.SetInterface(uint32(index), record))
	}
	const own = bpf.DatapathOwnFlagsOWN_ADDRESS
	for _, e := range []endpoints{v4, v6} {
		errs = append(errs, b.datapath.SetOwnAddress(withoutMACs(e).self, own),
			b.datapath.SetOwnAddress(fromStrong(e).self, own|strong<<bpf.DatapathOwnFlagsOWN_INTERFACE_SHIFT),
			b.datapath.SetOwnAddress(fromWeak(e).self, own|weak<<bpf.DatapathOwnFlagsOWN_INTERFACE_SHIFT))
	}
	return errors.Join(errs...)
}

// movedCases are packets by another interface than their flow's, which follows each of them.
func (b *bench) movedCases(e endpoints) {
	for i, protocol := range []layers.IPProtocol{tcp, udp} {
		class := []bpf.DatapathProtocolClass{bpf.DatapathProtocolClassCLASS_TCP, bpf.DatapathProtocolClassCLASS_UDP}[i]
		c := b.ingress(e, fmt.Sprintf("ingress: %s, its flow follows it to another interface", name(protocol)), followed,
			production, b.in(e, protocol, portMoved, production))
		at := b.enterFlow(e, protocol, portMoved, replication)
		c.before = func() asm.Instructions { return undo(at.wayOf(b.flow(e, protocol, portMoved, replication))) }
		c.prove = counts(bpf.DatapathEventEVENT_MOVED+bpf.DatapathEvent(class), 1000)
	}
}

// leftCases are replies that cannot be moved, and go as the kernel has routed them.
func (b *bench) leftCases(e endpoints) {
	for _, left := range []struct {
		why     string
		by      int
		port    uint16
		limit   limit
		outcome bpf.DatapathOutcome
	}{
		{"link is down", unplugged, portLinkDown, linkDown, bpf.DatapathOutcomeOUTCOME_LINK_DOWN},
		{"no next hop", unresolved, portNoNextHop, redirect.boundOnly(), bpf.DatapathOutcomeOUTCOME_NO_NEXT_HOP},
	} {
		c := b.egressAnew(e, "egress pass: tcp, "+left.why, left.limit, production, b.out(e, tcp, left.port, production))
		c.prove = ends(left.outcome, 1)
		b.enterFlow(e, tcp, left.port, left.by)
	}
}

func fromStrong(e endpoints) endpoints { return e.from("10.4.0.101", "2001:db8:4::101") }
func fromWeak(e endpoints) endpoints   { return e.from("10.5.0.101", "2001:db8:5::101") }

// originCases are packets that the host originates from another interface's address than the kernel chose: decided by the
// source alone, or going as the answers to a connection of the peer's go.
func (b *bench) originCases(e endpoints) {
	const port, portOfFlow = 443, 444
	for _, of := range []struct {
		what     string
		protocol layers.IPProtocol
		ends     endpoints
	}{
		{"originated", tcp, fromStrong(e)},
		{"originated", udp, fromStrong(e)},
		{"related", tcp, fromWeak(e)},
		{"related", udp, fromWeak(e)},
	} {
		c := b.egress(of.ends, fmt.Sprintf("egress redirect: %s, %s", name(of.protocol), of.what), originated, production,
			b.out(of.ends, of.protocol, port, production))
		c.verdict = tcActRedirect // counted when it arrives
		// The last run gave the packet the MAC of another interface.
		mac := b.device(production).MAC
		c.before = func() asm.Instructions { return append(b.unmark(), rewrite(len(mac), mac)...) }
	}
	flow := b.flow(fromWeak(e), tcp, portOfFlow, weak)
	flow.Gateway, flow.Flags = 0, 0 // to the MAC of the peer's frames
	b.enter(b.datapath.Established, flow)
	b.try(b.datapath.SetRecord(flow.Tuple, bpf.DatapathRecord{
		Flow: b.datapath.Seeds.Digest(flow.Tuple), Table: uint8(bpf.DatapathTableTABLE_ESTABLISHED),
	}))
}
