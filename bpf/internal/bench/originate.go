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
	// strong is the interface whose addresses decide what the host originates from them.
	strong = replication
	// weak is one where the peers' own flows do.
	weak = another
)

// manageOriginated has the hosts' addresses decide, as only these cases have it.
func (b *bench) manageOriginated() error {
	record := rig.Record(b.device(strong), strong) // of the peers, which are behind its gateway, as a route says
	record.Flags |= uint8(bpf.DatapathInterfaceFlagsINTERFACE_STRONG)
	record.FirstGateway4, record.FirstGateway6 = strong, strong
	errs := []error{
		b.datapath.SetSettings(bpf.DatapathSettings{Protocols: rig.Listed(1, 6, 17, 58, 132), RoutingGeneration: 1, Related: 1}),
		b.datapath.SetInterface(strong, record),
		b.datapath.SetInterface(weak, rig.Record(b.device(weak), weak)),
	}
	const own = bpf.DatapathOwnFlagsOWN_ADDRESS
	for _, e := range []endpoints{v4, v6} {
		errs = append(errs,
			b.datapath.SetOwnAddress(fromStrong(e).self, own|strong<<bpf.DatapathOwnFlagsOWN_INTERFACE_SHIFT),
			b.datapath.SetOwnAddress(fromWeak(e).self, own|weak<<bpf.DatapathOwnFlagsOWN_INTERFACE_SHIFT))
	}
	return errors.Join(errs...)
}

func fromStrong(e endpoints) endpoints { return e.from("10.4.0.101", "2001:db8:4::101") }
func fromWeak(e endpoints) endpoints   { return e.from("10.5.0.101", "2001:db8:5::101") }

// originated are packets that the host originates from another interface's address than the kernel chose: decided by the
// source alone, or going as the answers to a connection of the peer's go.
func (b *bench) originated(e endpoints) {
	if e == v4 {
		b.try(b.manageOriginated())
	}
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
		Flow: b.datapath.Seeds.Digest(flow.Tuple), Proof: uint8(bpf.DatapathProofPROOF_CONNECTION),
	}))
}
