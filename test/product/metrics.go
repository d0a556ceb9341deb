// SPDX-License-Identifier: Apache-2.0

package product

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"replypath/test/await"
)

// MetricsAddress is where an empty configuration serves metrics.
const MetricsAddress = "127.0.0.1:9945"

// Metrics is one scrape.
type Metrics map[string]*dto.MetricFamily

// Metrics scrapes the daemon in the host's namespace.
func (p *Product) Metrics() Metrics {
	p.t.Helper()
	metrics, err := p.Scrape()
	await.Must(p.t, err)
	return metrics
}

// Scrape is Metrics for when it may fail.
func (p *Product) Scrape() (Metrics, error) {
	body, err := p.Get("/metrics")
	if err != nil {
		return nil, err
	}
	parser := expfmt.NewTextParser(model.LegacyValidation)
	return parser.TextToMetricFamilies(strings.NewReader(body))
}

// Get asks the daemon's web server for a page and wants status 200.
func (p *Product) Get(path string) (body string, err error) {
	transport := &http.Transport{DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
		return p.Host.Dial(ctx, network, address)
	}}
	defer transport.CloseIdleConnections()
	client := http.Client{Transport: transport, Timeout: await.AnswerTime}
	response, err := client.Get("http://" + MetricsAddress + path)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, response.Body.Close()) }()
	data, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("GET %s: %s: %s", path, response.Status, strings.TrimSpace(string(data)))
	}
	return string(data), err
}

// Sum adds up the series of a metric that have all the labels, each given as name=value. A metric or series that there
// is not counts as 0.
func (m Metrics) Sum(name string, labels ...string) float64 {
	var sum float64
	for _, series := range m[name].GetMetric() {
		if hasLabels(series, labels) {
			sum += value(series)
		}
	}
	return sum
}

func hasLabels(series *dto.Metric, labels []string) bool {
	has := make(map[string]bool)
	for _, pair := range series.GetLabel() {
		has[pair.GetName()+"="+pair.GetValue()] = true
	}
	for _, label := range labels {
		if !has[label] {
			return false
		}
	}
	return true
}

func value(series *dto.Metric) float64 {
	switch {
	case series.Counter != nil:
		return series.Counter.GetValue()
	case series.Gauge != nil:
		return series.Gauge.GetValue()
	default:
		return series.Untyped.GetValue()
	}
}

// Backwards returns the counters of this scrape that a later one shows lower, or not at all.
func (m Metrics) Backwards(later Metrics) []string {
	var found []string
	for name, family := range m {
		if family.GetType() != dto.MetricType_COUNTER || !strings.HasPrefix(name, "replypath_") {
			continue
		}
		for _, series := range family.GetMetric() {
			var labels []string
			for _, pair := range series.GetLabel() {
				labels = append(labels, pair.GetName()+"="+pair.GetValue())
			}
			if before, after := value(series), later.Sum(name, labels...); after < before {
				found = append(found, fmt.Sprintf("%s%v: %v, then %v", name, labels, before, after))
			}
		}
	}
	return found
}
