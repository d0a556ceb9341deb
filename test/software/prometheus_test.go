// SPDX-License-Identifier: Apache-2.0

package software

import (
	"fmt"
	"net/netip"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"replypath/test/await"
	"replypath/test/host"
	"replypath/test/product"
	"replypath/test/topology"
	"replypath/test/traffic"
	"replypath/test/wire"
)

// alertRules are the product's alerts, seen from this package.
const alertRules = "../../docs/prometheus-alerts.yaml"

// scrapeInterval is short: a test waits for what is scraped.
const scrapeInterval = 250 * time.Millisecond

// TestPrometheus has Prometheus on A scrape B's daemon by the production network, while A asks B by the replication
// network: what it stores is what was captured, over a restart of the daemon as well.
func TestPrometheus(t *testing.T) {
	s := traffic.NewS1(t, topology.S1Options{
		Policy: topology.StrictSource, Offloads: topology.WireExact,
	})
	p := product.On(t, s.B.Host)
	listen := netip.AddrPortFrom(s.B.Eth0.Address(topology.IPv4), 9945)
	d := p.Start("--listen", listen.String())
	prom := host.StartPrometheus(t, s.A.Host, scrapeInterval, listen)
	prom.WantValue(`up{job="replypath"}`, 1)
	wires := wire.Tap(t, s.B)
	var conversations []*traffic.Conversation
	for _, f := range s.Families() {
		for _, kind := range traffic.Kinds {
			conversations = append(conversations, traffic.NewConversation(t, kind, s.A.Eth1, s.B.Eth1.Address(f)))
		}
	}
	for round := range 2 {
		if round > 0 {
			d.Kill()
			p.Start("--listen", listen.String())
		}
		for _, c := range conversations {
			for range 20 {
				traffic.Ask(t, c)
			}
		}
		for _, c := range conversations {
			wantStored(t, prom, wires, c)
		}
	}
	prom.WantValue("sum(resets(replypath_corrected_packets_total[5m]))", 0)
	prom.WantValue("count(ALERTS) or vector(0)", 0)
}

// wantStored compares what Prometheus has of a conversation's labels with the frames that left by eth1.
func wantStored(t *testing.T, prom *host.Prometheus, wires *wire.Wires, c *traffic.Conversation) {
	t.Helper()
	answers := wires.WantEth1(c.String(), c.Answers())
	labels := fmt.Sprintf(`{from_interface="eth0", to_interface="eth1", family=%q, protocol=%q}`,
		topology.FamilyOf(c.Self.Addr()), c.Protocol())
	prom.WantValue("replypath_corrected_packets_total"+labels, float64(len(answers)))
	prom.WantValue("replypath_corrected_bytes_total"+labels, float64(wire.Bytes(answers)))
}

// TestAlerts: the alerts fire when they should, and only then.
func TestAlerts(t *testing.T) {
	promtool := need(t, "promtool")
	all, err := filepath.Glob("../../metrics/testdata/alerts*.yaml")
	if err != nil || len(all) == 0 {
		t.Fatalf("no tests of the alerts: %v", err)
	}
	for _, tests := range all {
		t.Run(filepath.Base(tests), func(t *testing.T) {
			t.Parallel()
			if output, err := exec.Command(promtool, "test", "rules", tests).CombinedOutput(); err != nil {
				t.Errorf("%v\n%s", err, output)
			}
		})
	}
}

// TestPromtool has Prometheus' own tool check the alerts and the exposition.
func TestPromtool(t *testing.T) {
	promtool := need(t, "promtool")
	s := traffic.NewS1(t, topology.S1Options{})
	output, err := s.B.Command(t.Context(), promtool, "check", "rules", alertRules).CombinedOutput()
	if err != nil {
		t.Errorf("promtool check rules: %v\n%s", err, output)
	}
	p, _ := product.StartOn(t, s.B.Host)
	for _, kind := range traffic.Kinds {
		c := traffic.NewConversation(t, kind, s.A.Eth1, s.B.Eth1.Address(topology.IPv4))
		traffic.Ask(t, c)
	}
	check := s.B.Command(t.Context(), promtool, "check", "metrics")
	check.Stdin = strings.NewReader(await.Must1[string](t)(p.Get("/metrics")))
	if output, err := check.CombinedOutput(); err != nil {
		t.Errorf("promtool check metrics: %v\n%s", err, output)
	}
}
