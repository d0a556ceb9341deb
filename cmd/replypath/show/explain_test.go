// SPDX-License-Identifier: Apache-2.0

package show

import (
	"slices"
	"strings"
	"testing"

	"replypath/cmd/replypath/output"
	"replypath/loader/explain"
	"replypath/test/await"
)

// strongHost is what the source decides, by interfaces with long names, to a peer with a long address.
func strongHost() *explain.Answer {
	const longest = "enp130s0f1np100"
	far := farFlow()
	way := explain.Way{Interface: new(longest), NextHopMAC: new("02:00:00:00:00:04"), Gateway: new("2001:db8:4:ffff:ffff:ffff:ffff:1")}
	e := explain.Explanation{
		Protocol: new("tcp"), Family: far.Family, Peer: far.Peer, PeerPort: far.PeerPort, Self: far.Self, SelfPort: far.SelfPort,
		Kernel: explain.Kernel{Interface: new("enp130s0f0np100"), Gateway: new("2001:db8:3:ffff:ffff:ffff:ffff:1"), NextHopMAC: new("02:00:00:00:00:03"),
			Table: new(254)},
		Replypath: way, LeavesBy: way.Interface, Verdict: explain.StrongHost,
		Detail: "the packet belongs to no flow: it leaves by the interface that has its source address, as host_model: strong wants it",
	}
	other := e
	other.Peer, other.Self = "10.1.0.100", "10.4.0.100"
	other.Kernel.Interface, other.Replypath.Interface, other.LeavesBy = new("eth0"), new("eth1"), new("eth0")
	other.Verdict, other.Reason = explain.Fallback, new("bound_device")
	return &explain.Answer{Explanation: e, Others: []explain.Explanation{other}, Matches: 2}
}

// TestExplainFits: no line is longer than the screen, where the addresses of a table have room. Both interfaces, the verdict and its reason are on every screen.
func TestExplainFits(t *testing.T) {
	headers := []string{"PROTOCOL", "PEER", "SELF", "KERNEL", "REPLYPATH", "NEXT HOP", "VERDICT", "LEAVES BY"}
	for width, gone := range map[int][]string{80: {"PROTOCOL", "NEXT HOP", "LEAVES BY"}, 200: nil} {
		page := output.Page{Width: width}
		showAnswer(&page, strongHost())
		text := page.String()
		for line := range strings.Lines(text) {
			if line = strings.TrimSuffix(line, "\n"); len(line) > width {
				t.Errorf("%d characters in %d: %s", len(line), width, line)
			}
		}
		for _, header := range headers {
			if strings.Contains(text, header) == slices.Contains(gone, header) {
				t.Errorf("%d characters wide: is there %s?\n%s", width, header, text)
			}
		}
		words := strings.Join(strings.Fields(text), " ")
		a := strongHost()
		await.Says(t, "explain", words,
			"packet tcp [2001:db8:4::100]:5432 > [2001:db8:1234:5678:9abc:def0:1234:5678]:50000", "kernel enp130s0f0np100, gateway "+*a.Kernel.Gateway,
			"replypath enp130s0f1np100, gateway "+*a.Replypath.Gateway, "verdict strong-host", a.Detail, "fallback (bound_device)",
		)
	}
}
