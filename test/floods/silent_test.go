// SPDX-License-Identifier: Apache-2.0

package floods

import (
	"errors"
	"fmt"
	"net/netip"
	"testing"

	"replypath/test/await"
	"replypath/test/topology"
	"replypath/test/traffic"
	"replypath/test/wire"
)

const (
	// tooMany are more connections than a table of smallConfig has room for. The connectionless table has half.
	tooMany     = 2000
	smallConfig = "flow_table: {max_entries: 1024}\nrelated: false\n" // else what is pushed out goes right as well
)

// TestEvicted has more live connections and conversations than the tables hold, so that each pushes out another: with
// its next question each is back, and its answer goes by eth1.
func TestEvicted(t *testing.T) {
	for _, f := range traffic.Families {
		t.Run(f.String(), func(t *testing.T) { testEvicted(t, f) })
	}
}

func testEvicted(t *testing.T, f topology.Family) {
	v := newVictim(t, f, smallConfig, tooMany, tooMany/2)
	gone, before := v.evicted(), v.p.Metrics()
	w := v.tap(t)
	// Each asks on its own account: what the server says first has no question that brings the flow back.
	for _, c := range v.connections {
		await.Must(t, c.ask())
	}
	await.Must(t, v.askConversations(t.Context(), v.conversations))
	after := v.p.Metrics()
	rose := func(metric, label string) float64 { return after.Sum(metric, label) - before.Sum(metric, label) }
	readmitted := rose("replypath_flow_readmissions_total", "table=established")
	admitted := rose("replypath_flow_admissions_total", "table=connectionless")
	byEth0, byEth1 := w.eth0.Frames(topology.From(v.asked)), w.eth1.Count(topology.From(v.asked))
	t.Logf("%s: %d connections and %d conversations in tables of 1024 and 512: %d and %d had been pushed out, "+
		"%v readmitted and %v admitted again, %d of %d packets by eth0",
		f, tooMany, tooMany/2, gone["established"], gone["connectionless"], readmitted, admitted,
		len(byEth0), len(byEth0)+byEth1)
	if len(byEth0) > 0 {
		t.Errorf("by eth0 left %s", wire.Describe(byEth0))
	}
	if gone["established"] == 0 || readmitted < float64(gone["established"]) {
		t.Errorf("%v connections readmitted, of %d", readmitted, gone["established"])
	}
	if gone["connectionless"] == 0 || admitted < float64(gone["connectionless"]) {
		t.Errorf("%v conversations admitted again, of %d", admitted, gone["connectionless"])
	}
}

// evicted counts who is not in the tables, by state.
func (v *victim) evicted() map[string]int {
	v.t.Helper()
	gone := map[string]int{"established": len(v.connections), "connectionless": len(v.conversations)}
	for _, flow := range v.flows() {
		gone[flow.State]--
	}
	return gone
}

// TestSpoofedLatest shows that the spoofs of TestFloods reach the programs, and that
// its verdict notices: with follow: latest they take the connections along.
func TestSpoofedLatest(t *testing.T) {
	for _, f := range traffic.Families {
		t.Run(f.String(), func(t *testing.T) {
			v := newVictim(t, f, config+"follow: latest\n", 100, 10)
			kind := kinds[4]
			d := v.flood(t, kind, 0, tableSize)
			t.Logf("%s: %d connections, %d %s: %v moves, %d packets by eth0, %d flows misplaced",
				f, len(v.connections), tableSize, kind.name, d.moved, len(d.strayed), len(d.misplaced))
			if d.moved == 0 || len(d.strayed) == 0 {
				t.Errorf("nothing moved, says the verdict: %q", d)
			}
		})
	}
}

// Of the live ones every silentPart-th says nothing while a flood goes on, nor does
// the server: whoever has to make room for the flood, it would be them.
const silentPart = 10

// busy are those who are in use while a flood goes on.
func (v *victim) busy() live {
	return live{v.connections[len(v.connections)/silentPart:], v.conversations[len(v.conversations)/silentPart:]}
}

// silent are the others.
func (v *victim) silent() live {
	return live{v.connections[:len(v.connections)/silentPart], v.conversations[:len(v.conversations)/silentPart]}
}

// wake has the silent ones speak for the first time since before the flood. By every other connection it is the server
// that begins: a question would bring back what was lost. It returns a complaint about each packet by eth0, and about
// each of them who is not answered by eth1 and its router.
func (v *victim) wake(t *testing.T) (complaints []string, err error) {
	t.Helper()
	w, silent := v.tap(t), v.silent()
	var errs []error
	for i, c := range silent.connections {
		if i%2 == 0 {
			errs = append(errs, c.pass(c.server, c.client))
		}
		errs = append(errs, c.ask())
	}
	errs = append(errs, v.askConversations(t.Context(), silent.conversations))
	from := topology.From(v.asked)
	for _, frame := range w.eth0.Frames(from) {
		complaints = append(complaints, "by eth0: "+frame.String())
	}
	answered := make(map[netip.AddrPort]bool)
	for _, frame := range w.eth1.Frames(topology.All(from, v.toRouter())) {
		answered[netip.AddrPortFrom(frame.Destination, frame.DestinationPort)] = true
	}
	for _, c := range silent.connections {
		if !answered[c.peer] {
			complaints = append(complaints, fmt.Sprintf("connection of %s: no answer by eth1", c.peer))
		}
	}
	for _, conn := range silent.conversations {
		if peer := netip.MustParseAddrPort(conn.LocalAddr().String()); !answered[peer] {
			complaints = append(complaints, fmt.Sprintf("conversation of %s: no answer by eth1", peer))
		}
	}
	return complaints, errors.Join(errs...)
}

// toRouter matches what is addressed to eth1's router.
func (v *victim) toRouter() topology.Filter { return topology.ToMAC(v.n.Server.Eth1.Peer().MAC) }
