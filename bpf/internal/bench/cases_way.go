// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"

	"github.com/cilium/ebpf/asm"
	"github.com/gopacket/gopacket/layers"

	"replypath/bpf"
)

const (
	// Each packet has a flow of its own.
	portMoved = 6500 + iota
	portLinkDown
	portNoNextHop
)

// movedCases are packets by another interface than their flow's, which follows each of them.
func (r *rare) movedCases(e endpoints) (all []testCase, err error) {
	for _, protocol := range []layers.IPProtocol{layers.IPProtocolTCP, layers.IPProtocolUDP} {
		c := r.ingress(fmt.Sprintf("ingress: %s, its flow follows it to another interface, %s", name(protocol), e.family),
			boundMoved, 0, production, inbound(e, protocol, portMoved, r.device(production).MAC))
		table, flow, err := r.enter(e, protocol, portMoved, replication)
		if err != nil {
			return nil, err
		}
		at, err := r.find(table, flow)
		if err != nil {
			return nil, err
		}
		c.before = func() asm.Instructions { return undo(at.wayOf(flow)) }
		class := bpf.DatapathProtocolClassCLASS_TCP
		if protocol == layers.IPProtocolUDP {
			class = bpf.DatapathProtocolClassCLASS_UDP
		}
		c.prove = r.counts(bpf.DatapathEventEVENT_MOVED + bpf.DatapathEvent(class))
		all = append(all, c)
	}
	return all, nil
}

// leftCases are replies that cannot be moved, and go as the kernel has routed them.
func (r *rare) leftCases(e endpoints) (all []testCase, err error) {
	for _, left := range []struct {
		why     string
		by      int
		port    uint16
		bound   float64
		outcome bpf.DatapathOutcome
	}{
		{"link is down", unplugged, portLinkDown, boundLinkDown, bpf.DatapathOutcomeOUTCOME_LINK_DOWN},
		{"no next hop", unresolved, portNoNextHop, boundRedirect, bpf.DatapathOutcomeOUTCOME_NO_NEXT_HOP},
	} {
		c := r.egress(fmt.Sprintf("egress pass: tcp, %s, %s", left.why, e.family), left.bound, 0, production,
			outbound(e, layers.IPProtocolTCP, left.port, r.device(production).MAC))
		c.prove = r.ends(left.outcome)
		if _, _, err := r.enter(e, layers.IPProtocolTCP, left.port, left.by); err != nil {
			return nil, err
		}
		all = append(all, c)
	}
	return all, nil
}
