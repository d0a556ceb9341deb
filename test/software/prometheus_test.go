// SPDX-License-Identifier: Apache-2.0

package software

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"replypath/test/harness"
	"replypath/test/topology"
)

// Paths of the checkout, seen from this package.
const alertRules = "../../docs/prometheus-alerts.yaml"

const prometheusAddress = "127.0.0.1:9090"

// prometheus is a server on a host.
type prometheus struct {
	t      *testing.T
	client http.Client
}

// startPrometheus has it scrape targets four times a second and evaluate the
// product's alerts.
func startPrometheus(t *testing.T, host *topology.Host, targets ...netip.AddrPort) *prometheus {
	t.Helper()
	dir := t.TempDir()
	list := harness.Must1[[]byte](t)(json.Marshal(targets))
	config := fmt.Sprintf(`
global: {scrape_interval: 250ms, scrape_timeout: 250ms, evaluation_interval: 1s}
rule_files: [%q]
scrape_configs:
- job_name: replypath
  static_configs: [{targets: %s}]
`, harness.Must1[string](t)(filepath.Abs(alertRules)), list)
	path := filepath.Join(dir, "prometheus.yml")
	harness.Must(t, os.WriteFile(path, []byte(config), 0o644))
	command := host.Command(context.Background(), need(t, "prometheus"), "--config.file="+path,
		"--storage.tsdb.path="+filepath.Join(dir, "data"), "--web.listen-address="+prometheusAddress)
	harness.StartProgram(t, command, unix.SIGTERM)
	p := &prometheus{t: t}
	p.client.Timeout = harness.AnswerTime
	p.client.Transport = &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			return host.Dial(ctx, network, address)
		},
	}
	harness.Eventually(t, "prometheus is ready", func() error {
		_, err := p.get("/-/ready")
		return err
	})
	return p
}

func (p *prometheus) get(path string) (body []byte, err error) {
	response, err := p.client.Get("http://" + prometheusAddress + path)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, response.Body.Close()) }()
	body, err = io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("GET %s: %s: %s", path, response.Status, body)
	}
	return body, err
}

// series is what an expression has at an instant.
type series struct {
	Metric map[string]string
	Value  [2]any // time and value
}

// series evaluates an expression.
func (p *prometheus) series(expression string) ([]series, error) {
	body, err := p.get("/api/v1/query?query=" + url.QueryEscape(expression))
	if err != nil {
		return nil, err
	}
	var answer struct{ Data struct{ Result []series } }
	err = json.Unmarshal(body, &answer)
	return answer.Data.Result, err
}

// query evaluates an expression that has one value.
func (p *prometheus) query(expression string) (float64, error) {
	all, err := p.series(expression)
	if err != nil {
		return 0, err
	}
	if len(all) != 1 {
		return 0, fmt.Errorf("%s has %d values: %v", expression, len(all), all)
	}
	text, _ := all[0].Value[1].(string)
	return strconv.ParseFloat(text, 64)
}

// wantValue waits until an expression has a value.
func (p *prometheus) wantValue(expression string, want float64) {
	p.t.Helper()
	harness.Eventually(p.t, expression, func() error {
		got, err := p.query(expression)
		if err == nil && got != want {
			err = fmt.Errorf("%v, not %v", got, want)
		}
		return err
	})
}

// TestPrometheus has Prometheus on A scrape B's daemon by the production
// network, while A asks B by the replication network: what it stores is what was
// captured, over a restart of the daemon as well.
func TestPrometheus(t *testing.T) {
	s := harness.NewS1(t, topology.S1Options{
		Policy: topology.StrictSource, Offloads: topology.WireExact,
	})
	p := harness.On(t, s.B.Host)
	listen := netip.AddrPortFrom(s.B.Eth0.Address(topology.IPv4), 9945)
	d := p.Start("--listen", listen.String())
	prom := startPrometheus(t, s.A.Host, listen)
	prom.wantValue(`up{job="replypath"}`, 1)
	wires := harness.Tap(t, s.B)
	var conversations []*harness.Conversation
	for _, f := range s.Families() {
		for _, kind := range harness.Kinds {
			conversations = append(conversations, harness.NewConversation(t, kind, s.A.Eth1, s.B.Eth1.Address(f)))
		}
	}
	for round := range 2 {
		if round > 0 {
			d.Kill()
			p.Start("--listen", listen.String())
		}
		for _, c := range conversations {
			for range 20 {
				harness.Ask(t, c)
			}
		}
		for _, c := range conversations {
			wantStored(t, prom, wires, c)
		}
	}
	prom.wantValue("sum(resets(replypath_corrected_packets_total[5m]))", 0)
	prom.wantValue("count(ALERTS) or vector(0)", 0)
}

// wantStored compares what Prometheus has of a conversation's labels with the
// frames that left by eth1.
func wantStored(t *testing.T, prom *prometheus, wires *harness.Wires, c *harness.Conversation) {
	t.Helper()
	answers := wires.WantEth1(c.String(), c.Answers())
	labels := fmt.Sprintf(`{from_interface="eth0", to_interface="eth1", family=%q, protocol=%q}`,
		topology.FamilyOf(c.Self.Addr()), c.Protocol())
	prom.wantValue("replypath_corrected_packets_total"+labels, float64(len(answers)))
	prom.wantValue("replypath_corrected_bytes_total"+labels, float64(harness.Bytes(answers)))
}

// TestPromtool has Prometheus' own tool check the alerts and the exposition.
func TestPromtool(t *testing.T) {
	promtool := need(t, "promtool")
	s := harness.NewS1(t, topology.S1Options{})
	output, err := s.B.Command(t.Context(), promtool, "check", "rules", alertRules).CombinedOutput()
	if err != nil {
		t.Errorf("promtool check rules: %v\n%s", err, output)
	}
	p := harness.On(t, s.B.Host)
	p.Start()
	for _, kind := range harness.Kinds {
		c := harness.NewConversation(t, kind, s.A.Eth1, s.B.Eth1.Address(topology.IPv4))
		harness.Ask(t, c)
	}
	check := s.B.Command(t.Context(), promtool, "check", "metrics")
	check.Stdin = strings.NewReader(harness.Must1[string](t)(p.Get("/metrics")))
	if output, err := check.CombinedOutput(); err != nil {
		t.Errorf("promtool check metrics: %v\n%s", err, output)
	}
}
