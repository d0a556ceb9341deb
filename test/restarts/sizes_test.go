package restarts

import (
	"fmt"
	"net"
	"os"
	"testing"

	"replypath/loader/flows"
	"replypath/test/harness"
)

// sizes are odd, huge, and as small as can be.
var sizes = []int{1039, 3_000_017, 1024, 65_537, 262_143}

// TestReloadSizes reloads with another size of the tables every time. All flows are
// kept, also those that begin while the programs are replaced, one after the other;
// nothing leaves by eth0, and nothing of the tables before stays in memory.
func TestReloadSizes(t *testing.T) {
	t.Parallel()
	n := newServer(t)
	p := harness.On(t, n.Server.Host)
	config := harness.WriteConfig(t, harness.SmallTables)
	d := p.Start("--config", config)
	l := startLoad(t, n)
	l.allGoOn()
	count := times(t)
	use := watchUse(t, p, d)
	readmitted := func() float64 { return p.Metrics().Sum("replypath_flow_readmissions_total") }
	first := readmitted()
	for i := range count {
		before := p.Metrics()
		text := fmt.Sprintf("flow_table: {max_entries: %d}\n", sizes[i%len(sizes)])
		harness.Must(t, os.WriteFile(config, []byte(text), 0o600))
		d.Reload()
		if went := before.Backwards(p.Metrics()); len(went) > 0 {
			t.Errorf("after reload %d, counters went backwards: %q", i, went)
		}
		use.look()
		wantFlows(t, p, l, i)
		l.goesOn()
		if (i+1)%len(sizes) == 0 || i+1 == count {
			use.wantTablesGone()
			use.wantSettled(sizes[i%len(sizes)])
		}
	}
	use.wantFlat()
	wantNone(t, l.report("%d reloads with tables of other sizes (%s), %v flows entered anew by a later segment", count, use, readmitted()-first))
}

// wantFlows wants a flow of every connection that is open all the time.
func wantFlows(t *testing.T, p *harness.Product, l *load, reload int) {
	t.Helper()
	table := harness.Must1[*flows.Table](t)(flows.Open(p.PinDir))
	defer table.Close()
	known := make(map[string]bool)
	for _, f := range harness.Must1[[]flows.Flow](t)(table.List(flows.Filter{})) {
		if f.State == flows.StateEstablished {
			known[net.JoinHostPort(f.Peer, fmt.Sprint(f.PeerPort))] = true
		}
	}
	lost := 0
	for _, conn := range l.conns {
		if !known[conn.LocalAddr().String()] {
			lost++
		}
	}
	if lost > 0 {
		t.Errorf("after reload %d, %d of %d flows are not in the table", reload, lost, len(l.conns))
	}
}
