// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"net/netip"
	"strings"
	"testing"

	"replypath/test/harness"
	"replypath/test/topology"
)

const (
	manyFlows = 100_000
	mostBytes = 40 << 20
)

// TestMemory fills the flow table from 100,000 sources, beside a connection that
// they must not evict, and looks at what the daemon takes while everything is
// read.
func TestMemory(t *testing.T) {
	n := newServer(t)
	p := harness.On(t, n.Server.Host)
	d := p.Start()
	c := conversation(t, n, harness.TCP, topology.IPv4)
	harness.Ask(t, c)
	talk := c.Keep(t)
	flood(t, n, manyFlows)
	talk.Stop()
	harness.WantBy(t, n.Server, c, true)

	// A few find all their places in the table taken.
	const least = manyFlows * 99 / 100
	if count := p.Status().Flows.Count; count < least {
		t.Fatalf("%d flows, not %d", count, least)
	}
	for range 3 {
		if flows := p.Metrics().Sum("replypath_flows"); flows < least {
			t.Fatalf("the metrics show %v flows, not %d", flows, least)
		}
	}
	// Decoding so much takes this process longer than the other to write it.
	if flows := strings.Count(p.Expect(0, "flows", "-o", "json").Stdout, `"peer_port"`); flows < least {
		t.Fatalf("%d flows are listed, not %d", flows, least)
	}
	for _, figure := range []string{"VmRSS", "VmHWM"} {
		size := d.Memory(figure)
		t.Logf("%s: %.1f MiB", figure, float64(size)/(1<<20))
		if size > mostBytes {
			t.Errorf("%s is %d bytes, not within %d", figure, size, mostBytes)
		}
	}
}

// flood sends datagrams from so many sources to eth1.
func flood(t *testing.T, n *topology.TwoNIC, count int) {
	t.Helper()
	injector := harness.NewInjector(t, n.Server.Eth1.Peer())
	d := plainDatagram(n, topology.IPv4)
	source := netip.MustParseAddr("198.18.0.1") // RFC 2544: for such tests
	d.To = netip.AddrPortFrom(d.To.Addr(), 9)
	for range count {
		d.From = netip.AddrPortFrom(source, strangePort)
		injector.Send(d.Layers()...)
		source = source.Next()
	}
	harness.Settle(t, n.Replication, n.Server.Eth1)
}
