// SPDX-License-Identifier: Apache-2.0

package host

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
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"replypath/test/await"
	"replypath/test/product"
	"replypath/test/topology"
)

// alertRules are the product's alerts, seen from a package of tests.
const alertRules = "../../docs/prometheus-alerts.yaml"

const prometheusAddress = "127.0.0.1:9090"

// Prometheus is a server on a host.
type Prometheus struct {
	t      *testing.T
	client http.Client
}

// StartPrometheus has it scrape targets at an interval, and evaluate the product's alerts once a second.
func StartPrometheus(t *testing.T, host *topology.Host, interval time.Duration, targets ...netip.AddrPort) *Prometheus {
	t.Helper()
	dir := t.TempDir()
	list := await.Must1[[]byte](t)(json.Marshal(targets))
	config := fmt.Sprintf(`
global: {scrape_interval: %[1]dms, scrape_timeout: %[1]dms, evaluation_interval: 1s}
rule_files: [%[2]q]
scrape_configs:
- job_name: replypath
  static_configs: [{targets: %[3]s}]
`, interval.Milliseconds(), await.Must1[string](t)(filepath.Abs(alertRules)), list)
	path := filepath.Join(dir, "prometheus.yml")
	await.Must(t, os.WriteFile(path, []byte(config), 0o644))
	program, err := exec.LookPath("prometheus")
	if err != nil {
		t.Fatalf("%v: run test/install-packages.sh", err)
	}
	command := host.Command(context.Background(), program, "--config.file="+path,
		"--storage.tsdb.path="+filepath.Join(dir, "data"), "--web.listen-address="+prometheusAddress)
	product.StartProgram(t, command, unix.SIGTERM)
	p := &Prometheus{t: t}
	p.client.Timeout = await.AnswerTime
	p.client.Transport = &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			return host.Dial(ctx, network, address)
		},
	}
	await.Eventually(t, "prometheus is ready", func() error {
		_, err := p.Get("/-/ready")
		return err
	})
	return p
}

// Get asks for a path of its interface.
func (p *Prometheus) Get(path string) (body []byte, err error) {
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

// Series is what an expression has at an instant.
type Series struct {
	Metric map[string]string
	Value  [2]any // time and value
}

// Series evaluates an expression.
func (p *Prometheus) Series(expression string) ([]Series, error) {
	body, err := p.Get("/api/v1/query?query=" + url.QueryEscape(expression))
	if err != nil {
		return nil, err
	}
	var answer struct{ Data struct{ Result []Series } }
	err = json.Unmarshal(body, &answer)
	return answer.Data.Result, err
}

// Query evaluates an expression that has one value.
func (p *Prometheus) Query(expression string) (float64, error) {
	all, err := p.Series(expression)
	if err != nil {
		return 0, err
	}
	if len(all) != 1 {
		return 0, fmt.Errorf("%s has %d values: %v", expression, len(all), all)
	}
	text, _ := all[0].Value[1].(string)
	return strconv.ParseFloat(text, 64)
}

// WantValue waits until an expression has a value.
func (p *Prometheus) WantValue(expression string, want float64) {
	p.t.Helper()
	await.Eventually(p.t, expression, func() error {
		got, err := p.Query(expression)
		if err == nil && got != want {
			err = fmt.Errorf("%v, not %v", got, want)
		}
		return err
	})
}

// label is one that a legend names.
var label = regexp.MustCompile(`{{(\w+)}}`)

// LackedSeries says what an expression lacks: series, or a label of its legend.
func (p *Prometheus) LackedSeries(expression, legend string) error {
	all, err := p.Series(expression)
	if err != nil {
		return err
	}
	if len(all) == 0 {
		return fmt.Errorf("%s has no series", expression)
	}
	for _, one := range all {
		for _, name := range label.FindAllStringSubmatch(legend, -1) {
			if one.Metric[name[1]] == "" {
				return fmt.Errorf("%s has a series without %s: %v", expression, name[1], one.Metric)
			}
		}
	}
	return nil
}
