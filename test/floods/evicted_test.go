// SPDX-License-Identifier: Apache-2.0

package floods

import (
	"testing"

	"replypath/test/harness"
	"replypath/test/topology"
)

const (
	// tooMany are more connections than a table of smallConfig and the nursery have room for. The connectionless table
	// has half.
	tooMany     = 2600
	smallConfig = "flow_table: {max_entries: 1024}\n"
)

// TestEvicted has more live connections and conversations than the tables hold, so
// that each pushes out another: with its next question each is back, and its answer
// goes by eth1.
func TestEvicted(t *testing.T) {
	for _, f := range harness.Families {
		t.Run(f.String(), func(t *testing.T) { testEvicted(t, f) })
	}
}

func testEvicted(t *testing.T, f topology.Family) {
	v := newVictim(t, f, smallConfig, tooMany, tooMany/2)
	gone, before := v.evicted(), v.p.Metrics()
	w := v.tap(t)
	// Each asks on its own account: what the server says first has no question that
	// brings the flow back.
	for _, c := range v.connections {
		harness.Must(t, c.ask())
	}
	harness.Must(t, v.askConversations(t.Context(), v.conversations))
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
		t.Errorf("by eth0 left %s", harness.Describe(byEth0))
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
