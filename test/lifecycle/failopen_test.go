// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"fmt"
	"testing"

	"replypath/test/harness"
	"replypath/test/topology"
)

// wantUncorrected compares the counter of a reason with frames that left by eth0
// TestLinkDown takes the flow's interface away: its replies go on as the kernel
// sends them, and come back when it does.
func TestLinkDown(t *testing.T) {
	for _, f := range []topology.Family{topology.IPv4, topology.IPv6} {
		t.Run(f.String(), func(t *testing.T) { testLinkDown(t, f) })
	}
}

func testLinkDown(t *testing.T, f topology.Family) {
	n := newServer(t)
	p := harness.On(t, n.Server.Host)
	p.Start()
	l := newPush(t, n, f)
	l.Speak()
	router := n.Server.Eth1.Peer()
	harness.Must(t, router.SetDown())
	wires := harness.Tap(t, n.Server)
	l.Send(1000)
	_, err := wires.Eth0.Wait(harness.Within(t, harness.AnswerTime), l.Segments)
	harness.Must(t, err)
	// What the client acknowledges is lost, so that the server may repeat it:
	// the counter is read first.
	m := p.Metrics()
	eth0, eth1 := wires.Left(l.Segments)
	if len(eth1) > 0 {
		t.Errorf("without a carrier, by eth1 left %s", harness.Describe(eth1))
	}
	counted := m.Sum("replypath_uncorrected_packets_total", "reason=link_down", "family="+f.String())
	if counted == 0 || counted > float64(len(eth0)) {
		t.Errorf("%v packets with reason link_down, captured were %d", counted, len(eth0))
	}
	// The programs see it before the daemon does.
	harness.Eventually(t, "the metrics show eth1 without a carrier", func() error {
		if up := p.Metrics().Sum("replypath_interface_up", "interface=eth1"); up != 0 {
			return fmt.Errorf("replypath_interface_up is %v", up)
		}
		return nil
	})
	harness.Must(t, router.SetUp())
	_, err = wires.Eth1.Wait(harness.Within(t, harness.AnswerTime), l.Segments)
	harness.Must(t, err)
}
