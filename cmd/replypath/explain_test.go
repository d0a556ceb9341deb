package main

import (
	"net/netip"
	"slices"
	"testing"

	"replypath/loader/explain"
)

// fakeExplain knows the flows of fakeFlows; of what is no flow the host has no
// route to IPv6.
func fakeExplain(dir string, q explain.Question) (*explain.Answer, error) {
	if err := dirError(dir); err != nil {
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
	flow := fakeFlowList()[1]
	if q.Peer.Addr().String() != flow.Peer {
		return answer, nil
	}
	answer.Protocol, answer.PeerPort, answer.SelfPort, answer.Flow = &flow.Protocol, flow.PeerPort, flow.SelfPort, &flow
	answer.Replypath = explain.Way{Interface: flow.Interface, NextHopMAC: flow.NextHopMAC, Gateway: flow.Gateway}
	answer.Verdict, answer.LeavesBy = explain.Corrected, flow.Interface
	answer.Detail = "the reply leaves by eth1, where its flow came in"
	other := answer.Explanation
	other.PeerPort, other.Verdict, other.Reason, other.LeavesBy = 50001, explain.Fallback, new("bound_device"), new("eth0")
	answer.Matches = 1
	if q.Peer.Port() == 0 {
		answer.Matches = 3
		answer.Others = slices.Repeat([]explain.Explanation{other}, min(q.Limit, answer.Matches)-1)
	}
	return answer, nil
}

func TestEndpoint(t *testing.T) {
	for text, want := range map[string]string{
		"10.0.0.1":             "10.0.0.1:0",
		"10.0.0.1:443":         "10.0.0.1:443",
		"::ffff:10.0.0.1":      "10.0.0.1:0",
		"2001:db8::1":          "[2001:db8::1]:0",
		"[2001:db8::1]:443":    "[2001:db8::1]:443",
		"[::ffff:10.0.0.1]:53": "10.0.0.1:53",
	} {
		if got, err := endpointOf(text); err != nil || got != netip.MustParseAddrPort(want) {
			t.Errorf("%s: %v, %v; want %s", text, got, err, want)
		}
	}
	for _, text := range []string{"", "host", "10.0.0.1:", "10.0.0.1:70000", "10.0.0.0/8", "fe80::1%eth0", "[fe80::1%eth0]:1", "[2001:db8::1]"} {
		if got, err := endpointOf(text); err == nil {
			t.Errorf("%q is taken for %s", text, got)
		}
	}
}
