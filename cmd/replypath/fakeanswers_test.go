// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"time"

	"replypath/loader/explain"
	"replypath/loader/trace"
	"replypath/test/fakehost"
)

// fakeExplain knows the flows of fakeFlows; of what is no flow the host has no route to IPv6.
func fakeExplain(dir string, q explain.Question) (*explain.Answer, error) {
	if err := fakehost.DirError(dir); err != nil {
		return nil, err
	}
	answer := &explain.Answer{
		Explanation: explain.Explanation{
			Family: "ipv4", Peer: q.Peer.Addr().String(), PeerPort: q.Peer.Port(), Self: q.Self.Addr().String(), SelfPort: q.Self.Port(),
			Kernel:  explain.Kernel{Interface: new("eth0"), Gateway: new("10.3.0.1"), NextHopMAC: new("02:00:00:00:00:03"), Table: new(254)},
			Verdict: explain.NoFlow, Detail: "no flow is recorded: it goes as the kernel routes it, until the peer sends something",
			LeavesBy: new("eth0"),
		},
		Others: []explain.Explanation{},
	}
	if q.Peer.Addr().Is6() {
		answer.Family, answer.Kernel = "ipv6", explain.Kernel{Error: new("network is unreachable")}
		answer.LeavesBy = nil
		return answer, nil
	}
	flow := fakehost.FlowList()[1]
	if q.Peer.Addr().String() != flow.Peer {
		return answer, nil
	}
	answer.Protocol, answer.PeerPort, answer.SelfPort, answer.Flow = &flow.Protocol, flow.PeerPort, flow.SelfPort, &flow
	answer.Replypath = explain.Way{Interface: flow.Interface, NextHopMAC: flow.NextHopMAC, Gateway: flow.Gateway}
	answer.Verdict, answer.LeavesBy = explain.Corrected, flow.Interface
	answer.Detail = "the reply would leave by eth1, by which its flow arrived"
	answer.Seen = new(time.Date(2026, 9, 1, 12, 0, 0, 0, time.UTC))
	other := answer.Explanation
	other.PeerPort, other.Verdict, other.Reason, other.LeavesBy = 50001, explain.Fallback, new("bound_device"), new("eth0")
	answer.Matches = 1
	if q.Peer.Port() == 0 {
		answer.Matches = 3
		answer.Others = slices.Repeat([]explain.Explanation{other}, min(q.Limit, answer.Matches)-1)
	}
	return answer, nil
}

// fakeTrace tells of a question and its answer, one of which is moved, and of an echo of the host's own; then three
// events are lost.
func fakeTrace(ctx context.Context, dir string, filter trace.Filter, o trace.Observer) error {
	if err := fakehost.DirError(dir); err != nil {
		return err
	}
	o.Ready()
	for _, p := range fakehost.Packets() {
		if ctx.Err() != nil {
			return nil
		}
		if peer := netip.MustParseAddr(p.Peer); filter.Peer.IsValid() && !filter.Peer.Contains(peer) {
			continue
		}
		if err := o.Packet(p); err != nil {
			return err
		}
	}
	o.Lost(3)
	return nil
}

type fakeProbe struct{ peer netip.Addr }

func (p fakeProbe) Send() error {
	if p.peer == netip.MustParseAddr("192.0.2.1") {
		return errors.New("send a probe to 192.0.2.1: network is unreachable")
	}
	return nil
}

func (p fakeProbe) IsOf(packet *trace.Packet) bool { return packet.Peer == p.peer.String() }
func (p fakeProbe) Close() error                   { return nil }
