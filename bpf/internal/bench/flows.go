// SPDX-License-Identifier: Apache-2.0

package main

import (
	"net/netip"

	"github.com/gopacket/gopacket/layers"

	"replypath/bpf"
	"replypath/bpf/internal/rig"
)

// lasting is how many ticks ahead a time can be at most: 17 minutes at 1000 Hz.
const lasting = uint32(bpf.DatapathTickTICKS_AHEAD) - 1

// addFlow enters a flow that came in by the replication interface.
func (b *bench) addFlow(e endpoints, protocol layers.IPProtocol, port uint16) error {
	table := b.datapath.Connectionless
	if protocol == layers.IPProtocolTCP {
		table = b.datapath.Established
	}
	flow, err := b.flow(e, protocol, port)
	if err != nil {
		return err
	}
	return b.datapath.AddFlow(table, flow)
}

// flow came in by the replication interface.
func (b *bench) flow(e endpoints, protocol layers.IPProtocol, port uint16) (bpf.DatapathFlow, error) {
	now, err := b.datapath.Now()
	return bpf.DatapathFlow{
		Tuple:     rig.Tuple(uint8(protocol), netip.AddrPortFrom(e.peer, peerPort), netip.AddrPortFrom(e.self, port)),
		Seen:      now + lasting, // its peer goes on asking while this is measured
		Created:   now,
		Ifindex:   b.host.Devices[1].Index,
		Interface: replication,
		Gateway:   replication,
		Mac:       rig.MAC(gatewayMAC),
		Flags:     uint16(bpf.DatapathFlowFlagsFLOW_NEXT_HOP_GATEWAY),
	}, err
}

// established enters the flow of a connection in this state.
func (b *bench) established(e endpoints, port uint16, state bpf.DatapathFlowState) (bpf.DatapathFlow, error) {
	flow, err := b.flow(e, layers.IPProtocolTCP, port)
	flow.State = uint8(state)
	if err != nil {
		return flow, err
	}
	return flow, b.datapath.AddFlow(b.datapath.Established, flow)
}
