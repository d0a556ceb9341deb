// SPDX-License-Identifier: Apache-2.0

package software

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"os"
	"regexp"
	"strings"
	"testing"

	"replypath/test/await"
	"replypath/test/host"
	"replypath/test/product"
	"replypath/test/topology"
	"replypath/test/traffic"
)

// dashboardFile is what Grafana imports.
const dashboardFile = "../../docs/grafana-dashboard.json"

// dashboard is what the test reads of it.
type dashboard struct {
	Panels []struct {
		Title   string
		Targets []struct {
			Expr         string
			LegendFormat string
		}
	}
	Templating struct {
		List []struct{ Type, Name, Query string }
	}
}

// chosen replaces what Grafana replaces: each variable by all of its values, and the windows by what a short test has.
var chosen = strings.NewReplacer("$__rate_interval", "30s", "$__range", "1m", "$job", "replypath", "$instance", ".*", "$interface", ".*")

// TestDashboard has Prometheus scrape two hosts. On one of them everything happens that is counted only once it has
// happened: replies are not corrected, corrected and lost, and the host originates packets from the address of another
// interface. Each query of the dashboard has series then, with the labels that its legend names.
func TestDashboard(t *testing.T) {
	board := readDashboard(t)
	s := traffic.NewS1(t, topology.S1Options{Policy: topology.AnySource})
	prom, b := scrapeBoth(t, s)
	askAll(t, s)
	b.Expect(0, "mode", "enforce")
	askAll(t, s)
	traffic.Ask(t, traffic.NewConversation(t, traffic.UDP, s.B.Eth1, s.A.Eth0.Address(topology.IPv4)))
	loseUDP(t, s, prom)
	for _, v := range board.Templating.List {
		if v.Type == "query" {
			await.Eventually(t, "values of "+v.Name, func() error { return lackedValues(prom, v.Query) })
		}
	}
	queries := 0
	for _, p := range board.Panels {
		for _, q := range p.Targets {
			queries++
			await.Eventually(t, p.Title, func() error { return prom.LackedSeries(chosen.Replace(q.Expr), q.LegendFormat) })
		}
	}
	if queries < 40 {
		t.Errorf("the dashboard has only %d queries", queries)
	}
	prom.WantValue(`count(ALERTS{alertname="ReplypathInterfaceMissing", interface="backup0"})`, 1)
	prom.WantValue(`count(ALERTS{alertname="ReplypathInterfaceNotAttached"}) or vector(0)`, 0)
	prom.WantValue(`job:replypath_hosts:count`, 2)
}

func readDashboard(t *testing.T) (board dashboard) {
	t.Helper()
	await.Must(t, json.Unmarshal(await.Must1[[]byte](t)(os.ReadFile(dashboardFile)), &board))
	return board
}

// scrapeBoth has Prometheus on A scrape A and B. B observes, and has no interface backup0.
func scrapeBoth(t *testing.T, s *topology.S1) (*host.Prometheus, *product.Product) {
	t.Helper()
	listen := func(server *topology.Server) netip.AddrPort {
		return netip.AddrPortFrom(server.Eth0.Address(topology.IPv4), 9945)
	}
	product.On(t, s.A.Host).Start("--listen", listen(s.A).String())
	b := product.On(t, s.B.Host)
	config := product.WriteConfig(t, "mode: observe\ninterfaces: [{name: eth0}, {name: eth1}, {name: backup0}]\n")
	b.Start("--config", config, "--listen", listen(s.B).String())
	traffic.Serve(t, s.A.Host, s.A.Eth0.Address(topology.IPv4))
	return host.StartPrometheus(t, s.A.Host, scrapeInterval, listen(s.A), listen(s.B)), b
}

// askAll has A ask B by every protocol.
func askAll(t *testing.T, s *topology.S1) {
	t.Helper()
	for _, kind := range traffic.Kinds {
		traffic.Ask(t, traffic.NewConversation(t, kind, s.A.Eth1, s.B.Eth1.Address(topology.IPv4)))
	}
}

// loseUDP has somebody's program at B's eth1 drop replies that were moved there, until Prometheus knows of it.
func loseUDP(t *testing.T, s *topology.S1, prom *host.Prometheus) {
	t.Helper()
	thief := host.TakeUDP(t, s.B.Eth1)
	c := traffic.NewConversation(t, traffic.UDP, s.A.Eth1, s.B.Eth1.Address(topology.IPv4))
	await.Eventually(t, "lost replies", func() error {
		if err := c.Ask(await.Within(t, await.SilenceTime)); err == nil {
			t.Error("a question was answered, although the answer was taken")
		}
		return prom.LackedSeries("replypath_lost_packets_total > 0", "{{reason}}")
	})
	await.Must(t, thief.Close())
}

// values is how Grafana asks for the values of a label.
var values = regexp.MustCompile(`^label_values\((.+), (\w+)\)$`)

// lackedValues says that a variable has no values.
func lackedValues(prom *host.Prometheus, query string) error {
	parts := values.FindStringSubmatch(query)
	if parts == nil {
		return fmt.Errorf("%s is no label_values(SERIES, LABEL)", query)
	}
	body, err := prom.Get("/api/v1/label/" + parts[2] + "/values?match[]=" + url.QueryEscape(chosen.Replace(parts[1])))
	if err != nil {
		return err
	}
	var answer struct{ Data []string }
	if err := json.Unmarshal(body, &answer); err != nil {
		return err
	}
	if len(answer.Data) == 0 {
		return errors.New(query + " has no values")
	}
	return nil
}
