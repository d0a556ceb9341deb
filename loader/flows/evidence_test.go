// SPDX-License-Identifier: Apache-2.0

package flows

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"replypath/bpf"
	"replypath/test/await"
)

// ago is the tick of a moment that is so long past, of a clock with a tick a second.
func ago(d time.Duration) uint32 { return 1<<20 - uint32(d/time.Second) }

func sinceTick(tick uint32) time.Duration { return time.Duration(1<<20-tick) * time.Second }

// ownOf knows an own address, and one that a rule translates.
func ownOf(a netip.Addr) bpf.DatapathOwnFlags {
	return map[netip.Addr]bpf.DatapathOwnFlags{
		netip.MustParseAddr("10.4.0.100"): bpf.DatapathOwnFlagsOWN_ADDRESS, netip.MustParseAddr("10.4.0.7"): bpf.DatapathOwnFlagsOWN_TRANSLATED,
	}[a]
}

// request is a flow to a port of 10.4.0.100 by the interface 1.
func request(protocol uint8, port uint16, began, heard time.Duration) bpf.DatapathFlow {
	var f bpf.DatapathFlow
	f.Tuple.Self, f.Tuple.Peer = netip.MustParseAddr("10.4.0.100").As16(), netip.MustParseAddr("10.9.0.5").As16()
	f.Tuple.SelfPort, f.Tuple.Protocol, f.Interface = port>>8|port<<8, protocol, 1
	f.Created, f.Seen = ago(began), ago(heard)
	return f
}

// to has a request go to another address.
func to(f bpf.DatapathFlow, self string) bpf.DatapathFlow {
	f.Tuple.Self = netip.MustParseAddr(self).As16()
	return f
}

// replied has a flow have been answered, by more than a refusal.
func replied(f bpf.DatapathFlow) bpf.DatapathFlow {
	f.State |= uint8(bpf.DatapathFlowStateFLOW_REPLIED)
	return f
}

// left has the last reply of a flow have left so long ago.
func left(f bpf.DatapathFlow, d time.Duration, outcome bpf.DatapathOutcome) bpf.DatapathFlow {
	const ticks = uint32(bpf.DatapathTickLEFT_TICKS)
	f.Left = ago(d)/ticks*ticks | uint32(outcome)
	return f
}

// TestEvidence: each request counts once, by its last reply. One that nobody takes is no fault, nor one of long ago.
func TestEvidence(t *testing.T) {
	const tcp, udp, icmp = unix.IPPROTO_TCP, unix.IPPROTO_UDP, unix.IPPROTO_ICMP
	const halfOpen, established, connectionless = bpf.DatapathTableTABLE_HALF_OPEN, bpf.DatapathTableTABLE_ESTABLISHED, bpf.DatapathTableTABLE_CONNECTIONLESS
	const right, corrected, mtu, lost = bpf.DatapathOutcomeOUTCOME_ASYMMETRIC, bpf.DatapathOutcomeOUTCOME_CORRECTED, bpf.DatapathOutcomeOUTCOME_MTU, bpf.DatapathOutcomeOUTCOME_LOST
	type entry struct {
		bpf.DatapathFlow
		in bpf.DatapathTable
	}
	minutes := func(n int) time.Duration { return time.Duration(n) * time.Minute }
	unheard := entry{request(tcp, 5432, 2*time.Minute, time.Minute), halfOpen}
	stray := unheard
	stray.Flags |= uint16(bpf.DatapathFlowFlagsFLOW_STRAY)
	bound := entry{left(request(tcp, 22, minutes(5), 0), 0, bpf.DatapathOutcomeOUTCOME_BOUND_DEVICE), established}
	for _, test := range []struct {
		name    string
		entries []entry
		want    Recent
		finding string // how it begins
	}{
		{"nothing", nil, Recent{}, ""},
		{"as routed, and moved", []entry{
			{left(request(tcp, 22, minutes(90), 0), 0, right), established}, {left(replied(request(udp, 53, 0, 0)), 0, corrected), connectionless}, bound,
		}, Recent{Right: 3}, ""},
		{"astray and lost", []entry{
			{left(request(tcp, 22, minutes(2), 0), 0, mtu), established}, {left(request(udp, 53, 0, 0), 0, lost), connectionless},
		}, Recent{Astray: 1, Lost: 1, Wrong: map[bpf.DatapathOutcome]int{mtu: 1, lost: 1}}, ""},
		{"astray a while ago", []entry{{left(request(tcp, 22, minutes(8), minutes(7)), minutes(7), mtu), established}}, Recent{Astray: 1}, ""},
		{"heard long ago", []entry{{left(request(tcp, 22, minutes(90), minutes(11)), minutes(11), right), established}}, Recent{}, ""},
		{"only just asked", []entry{{request(tcp, 5432, 2*time.Second, 0), halfOpen}}, Recent{}, ""},
		{"a stray, a ping, and a port that nobody has", []entry{
			stray, {request(icmp, 0, minutes(1), 0), connectionless}, {request(tcp, 81, minutes(1), 0), halfOpen},
		}, Recent{Silent: 2}, ""},
		{"datagrams to who answers nobody", []entry{{request(udp, 514, minutes(2), 0), connectionless}}, Recent{Silent: 1}, ""},
		{"no reply", []entry{unheard, unheard}, Recent{Unanswered: 2}, "error: 2 of 2 requests by eth1 since "},
		{"no reply to one that asked again", []entry{unheard}, Recent{Unanswered: 1}, "error: 1 of 1 requests by eth1 since "},
		{"a scan asks once", []entry{{request(tcp, 5432, minutes(1), minutes(1)), halfOpen}}, Recent{Unanswered: 1}, "note: 1 of 1 requests by eth1 since "},
		{"none since a while", []entry{
			{request(tcp, 5432, minutes(8), minutes(7)), halfOpen}, {request(tcp, 5432, minutes(8), minutes(7)), halfOpen},
		}, Recent{Unanswered: 2}, "note: 2 of 2 requests by eth1 since "},
		{"another service answers", []entry{unheard, unheard, {left(request(tcp, 22, minutes(1), 0), 0, right), established}},
			Recent{Right: 1, Unanswered: 2}, "warning: 2 of 3 requests by eth1 since "},
		{"others of before it are no matter", []entry{unheard, unheard, {left(request(tcp, 5432, minutes(9), 0), 0, right), established}},
			Recent{Right: 1, Unanswered: 2}, "error: 2 of 2 requests by eth1 since "},
		{"answered since", []entry{unheard, unheard, {left(request(tcp, 5432, minutes(1), 0), 0, right), established}}, Recent{Right: 1, Unanswered: 2}, ""},
		{"one got none, others did, and now none does", []entry{
			{request(tcp, 5432, minutes(9), minutes(9)), halfOpen}, {left(request(tcp, 5432, minutes(3), minutes(3)), minutes(3), right), established}, unheard, unheard,
		}, Recent{Right: 1, Unanswered: 3}, "error: 2 of 2 requests by eth1 since "},
		{"a service of datagrams that answers others now", []entry{
			{request(udp, 53, minutes(2), 0), connectionless}, {left(replied(request(udp, 53, minutes(9), 0)), 0, right), connectionless},
		}, Recent{Right: 1, Unanswered: 1}, ""},
		{"a service of datagrams that answered others before", []entry{
			{request(udp, 53, minutes(2), 0), connectionless}, {left(replied(request(udp, 53, minutes(9), minutes(3))), minutes(3), right), connectionless},
		}, Recent{Right: 1, Unanswered: 1}, "warning: 1 of 1 requests by eth1 since "},
		{"a service of datagrams that answered others an hour ago", []entry{
			{request(udp, 53, minutes(2), 0), connectionless}, {left(replied(request(udp, 53, minutes(90), minutes(60))), minutes(60), right), connectionless},
		}, Recent{Unanswered: 1}, "warning: 1 of 1 requests by eth1 since "},
		{"connections whose replies are dropped from now on", []entry{
			{left(request(tcp, 5432, minutes(90), 0), minutes(1), right), established}, {left(request(tcp, 5432, minutes(80), 0), minutes(1), right), established},
		}, Recent{Unanswered: 2}, "error: 2 of 2 requests by eth1 since "},
		{"a peer has more room", []entry{
			{left(request(tcp, 5432, minutes(90), 0), minutes(1), right), established}, {left(request(tcp, 5432, minutes(80), 0), 0, right), established},
		}, Recent{Right: 1, Unanswered: 1}, "note: 1 of 1 requests by eth1 since "},
		{"a refused port, of which a firewall drops more", []entry{
			{left(request(tcp, 81, minutes(3), minutes(3)), minutes(3), right), halfOpen}, {request(tcp, 81, minutes(1), 0), halfOpen},
		}, Recent{Right: 1, Silent: 1}, ""},
		{"what is forwarded to a port that this host serves", []entry{{to(unheard.DatapathFlow, "203.0.113.77"), halfOpen}}, Recent{Silent: 1}, ""},
		{"what a rule translates", []entry{{to(request(tcp, 8080, minutes(1), 0), "10.4.0.7"), halfOpen}}, Recent{Unanswered: 1}, "error: 1 of 1 requests by eth1 since "},
	} {
		g := newGathering(sinceTick, map[uint16][]netip.Addr{5432: {netip.IPv6Unspecified()}, 81: {netip.MustParseAddr("127.0.0.1")}}, ownOf)
		for _, e := range test.entries {
			g.Add(&e.DatapathFlow, e.in)
		}
		evidence := g.Evidence()
		got := evidence.Recent[1]
		if hasTimes := got.FirstAt != nil && got.LastAt != nil && !got.LastAt.Before(*got.FirstAt); hasTimes != (got.All() > 0) {
			t.Errorf("%s: from %v to %v", test.name, got.FirstAt, got.LastAt)
		}
		got.FirstAt, got.LastAt = nil, nil
		await.Same(t, test.name, test.want, got)
		said := ""
		for _, f := range evidence.Findings(map[uint16]string{1: "eth1"}) {
			said += string(f.Severity) + ": " + f.Found
		}
		if !strings.HasPrefix(said, test.finding) || (said == "") != (test.finding == "") {
			t.Errorf("%s: %q, not %q", test.name, said, test.finding)
		}
	}
}

// TestEvidenceIsBounded: a scan of all ports of many addresses takes no more room, and a service that a socket has keeps its place.
func TestEvidenceIsBounded(t *testing.T) {
	g := newGathering(sinceTick, map[uint16][]netip.Addr{5432: {netip.IPv4Unspecified()}}, ownOf)
	for port := range 1 << 16 {
		f := left(replied(request(unix.IPPROTO_UDP, uint16(port), time.Minute, 0)), 0, bpf.DatapathOutcomeOUTCOME_CORRECTED)
		g.Add(&f, bpf.DatapathTableTABLE_CONNECTIONLESS)
		f = request(unix.IPPROTO_TCP, uint16(port), time.Minute, 0)
		g.Add(&f, bpf.DatapathTableTABLE_HALF_OPEN)
	}
	if len(g.ends) > 2*mostEnds || len(g.serves) > mostEnds {
		t.Errorf("%d ends, %d that answer", len(g.ends), len(g.serves))
	}
	if e := g.Evidence(); e.Recent[1].Unanswered != 1 || e.Recent[1].Right != 1<<16 {
		t.Errorf("%+v", e.Recent[1])
	}
}
