// SPDX-License-Identifier: Apache-2.0

package software

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"replypath/test/await"
	"replypath/test/host"
	"replypath/test/topology"
	"replypath/test/traffic"
)

// Lengths of the scenes of the picture, and what Grafana would look at for each point.
const (
	observed, enforced, taken = 20 * time.Second, 20 * time.Second, 15 * time.Second
	window, step              = "5s", "1"
)

// TestDashboardPicture records what the dashboard shows of two hosts, for make docs-pictures: one observes, then
// enforces, then loses datagrams, then not any more. dashboard.py draws it.
func TestDashboardPicture(t *testing.T) {
	dir := os.Getenv("REPLYPATH_PICTURES")
	if dir == "" {
		t.Skip("make docs-pictures runs it")
	}
	s := traffic.NewS1(t, topology.S1Options{Policy: topology.AnySource})
	prom, b := scrapeBoth(t, s)
	begin := time.Now()
	stop := keepAsking(t, s)
	time.Sleep(observed)
	b.Expect(0, "mode", "enforce")
	time.Sleep(enforced)
	thief := host.TakeUDP(t, s.B.Eth1)
	time.Sleep(taken)
	await.Must(t, thief.Close())
	time.Sleep(taken)
	stop()
	results := make(map[string]json.RawMessage)
	chosen := strings.NewReplacer("$__rate_interval", window, "$__range", "1m", "$job", "replypath", "$instance", ".*", "$interface", ".*")
	for _, p := range readDashboard(t).Panels {
		for _, q := range p.Targets {
			results[q.Expr] = await.Must1[json.RawMessage](t)(over(prom, chosen.Replace(q.Expr), begin, time.Now()))
		}
	}
	text := await.Must1[[]byte](t)(json.Marshal(results))
	await.Must(t, os.WriteFile(filepath.Join(dir, "dashboard.json"), text, 0o644))
}

// over evaluates an expression over time.
func over(prom *host.Prometheus, expression string, from, to time.Time) (json.RawMessage, error) {
	body, err := prom.Get(fmt.Sprintf("/api/v1/query_range?query=%s&start=%d&end=%d&step=%s",
		url.QueryEscape(expression), from.Unix(), to.Unix(), step))
	if err != nil {
		return nil, err
	}
	var answer struct {
		Data struct{ Result json.RawMessage }
	}
	err = json.Unmarshal(body, &answer)
	return answer.Data.Result, err
}

// keepAsking has A ask B by each protocol at a pace of its own, and B ask A from eth1, until stop is called. Some
// questions get no answer.
func keepAsking(t *testing.T, s *topology.S1) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var asking sync.WaitGroup
	ask := func(c *traffic.Conversation, pace time.Duration) {
		asking.Go(func() {
			for ctx.Err() == nil {
				one, done := context.WithTimeout(ctx, await.SilenceTime)
				_ = c.Ask(one)
				done()
				time.Sleep(pace)
			}
		})
	}
	for i, kind := range traffic.Kinds {
		pace := time.Duration(i+1) * 10 * time.Millisecond
		ask(traffic.NewConversation(t, kind, s.A.Eth1, s.B.Eth1.Address(topology.IPv4)), pace)
		ask(traffic.NewConversation(t, kind, s.A.Eth1, s.B.Eth1.Address(topology.IPv6)), 3*pace)
	}
	ask(traffic.NewConversation(t, traffic.UDP, s.B.Eth1, s.A.Eth0.Address(topology.IPv4)), 50*time.Millisecond)
	return func() {
		cancel()
		asking.Wait()
	}
}
