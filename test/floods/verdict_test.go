// SPDX-License-Identifier: Apache-2.0

package floods

import (
	"fmt"
	"net/netip"
	"strings"
	"time"

	"replypath/test/product"
	"replypath/test/topology"
	"replypath/test/wire"
)

// verdict is what a flood did to the live connections and conversations.
type verdict struct {
	moved  float64 // by the counters
	resets []*topology.Frame
	// strayed are packets that left by eth0, misplaced are flows that the table has
	// at another interface or MAC, or not at all.
	strayed   []*topology.Frame
	misplaced []string
	answers   int
	// misdirected are packets by eth1 that went to another MAC than its router's.
	misdirected []*topology.Frame
	silent      []string // what is wrong with those who said nothing meanwhile
	// uncounted are protocols whose counter of corrected packets differs from what was captured.
	uncounted []string
	broken    error
	took      time.Duration // for the flood alone
	newcomers int           // connections that were opened meanwhile
	// sent are the frames of the flood, of which lost did not reach the server.
	sent, lost int
}

// String lists the complaints; it is empty where there are none.
func (d *verdict) String() string {
	var b strings.Builder
	complain := func(is bool, format string, args ...any) {
		if is {
			fmt.Fprintf(&b, format+"\n", args...)
		}
	}
	complain(d.moved != 0, "%v flows moved", d.moved)
	complain(len(d.resets) > 0, "reset: %s", wire.Describe(d.resets))
	complain(len(d.strayed) > 0, "by eth0: %s", wire.Describe(d.strayed))
	complain(len(d.misplaced) > 0, "%d flows are not where they belong, such as %s", len(d.misplaced), first(d.misplaced))
	complain(d.answers == 0, "nothing was captured")
	complain(len(d.misdirected) > 0, "to another MAC: %s", wire.Describe(d.misdirected))
	complain(len(d.silent) > 0, "%d complaints about those who were silent, such as %s", len(d.silent), first(d.silent))
	complain(len(d.uncounted) > 0, "counters and captures differ: %s", d.uncounted)
	complain(d.broken != nil, "%v", d.broken)
	return b.String()
}

func first(list []string) string {
	if len(list) == 0 {
		return ""
	}
	return list[0]
}

const movesTotal = "replypath_flow_moves_total"

// judge compares captures, counters and the flow table. Of the protocol of a flood,
// the counters tell nothing about those who are alive.
func (v *victim) judge(w *wires, before, after product.Metrics, flooded string, broken error) *verdict {
	v.t.Helper()
	from := topology.From(v.asked)
	d := &verdict{
		moved:       after.Sum(movesTotal) - before.Sum(movesTotal),
		strayed:     w.eth0.Frames(from),
		resets:      w.left(topology.Flags(topology.RST, topology.RST)),
		answers:     w.eth1.Count(from),
		misdirected: w.eth1.Frames(topology.All(from, topology.Not(v.toRouter()))),
		broken:      broken,
	}
	for protocol, match := range map[string]topology.Filter{"tcp": topology.TCP, "udp": topology.UDP} {
		const corrected = "replypath_corrected_packets_total"
		labels := []string{"protocol=" + protocol, "from_interface=eth0", "to_interface=eth1", "family=" + v.family.String()}
		counted := after.Sum(corrected, labels...) - before.Sum(corrected, labels...)
		captured := w.eth1.Count(topology.All(from, match))
		if protocol != flooded && counted != float64(captured) {
			d.uncounted = append(d.uncounted, fmt.Sprintf("%s: %v counted, %d captured", protocol, counted, captured))
		}
	}
	flows := v.flows()
	for _, c := range v.connections {
		d.check(v, flows, "established", c.peer)
	}
	for _, conn := range v.conversations {
		d.check(v, flows, "connectionless", netip.MustParseAddrPort(conn.LocalAddr().String()))
	}
	return d
}

// check looks for a flow in the table.
func (d *verdict) check(v *victim, flows map[string]product.Flow, state string, peer netip.AddrPort) {
	eth1 := v.n.Server.Eth1
	flow, known := flows[state+" "+peer.String()]
	by, to := product.OrEmpty(flow.Interface), product.OrEmpty(flow.NextHopMAC)
	switch {
	case !known:
		d.misplaced = append(d.misplaced, fmt.Sprintf("%s of %s: not there", state, peer))
	case by != eth1.Name || to != eth1.Peer().MAC.String():
		d.misplaced = append(d.misplaced, fmt.Sprintf("%s by %s, %s", flow, by, to))
	}
}

// flows reads the client's flows, by state and peer.
func (v *victim) flows() map[string]product.Flow {
	v.t.Helper()
	flows := make(map[string]product.Flow)
	for _, flow := range v.p.Flows("--peer", v.peer.String()) {
		peer := netip.AddrPortFrom(netip.MustParseAddr(flow.Peer), flow.PeerPort)
		flows[flow.State+" "+peer.String()] = flow
	}
	return flows
}
