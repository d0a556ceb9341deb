// SPDX-License-Identifier: Apache-2.0

package demo

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"

	"replypath/cmd/replypath/demo/network"
	"replypath/loader/config"
)

// correctedPackets is the counter that has to agree with the captures.
const correctedPackets = "replypath_corrected_packets_total"

// showMetrics shows counters and compares them with the captures.
func (d *demo) showMetrics(ctx context.Context, r *round) error {
	address := "http://" + config.Default().Metrics.Listen + "/metrics"
	d.heading("What Prometheus reads from B: %s", address)
	text, err := scrape(ctx, d.net.B, address)
	if err != nil {
		return fmt.Errorf("read the metrics: %w", err)
	}
	corrected, counted, err := samples(text, correctedPackets)
	if err != nil {
		return err
	}
	for _, sample := range corrected {
		d.quote(sample)
	}
	captured := len(r.eth1.replies(r.questions...))
	d.mustBe(counted == float64(captured),
		fmt.Sprintf("%g packets counted, as many as captured on the cable of eth1", counted),
		fmt.Sprintf("%g packets counted, %d captured on the cable of eth1", counted, captured))
	return nil
}

// scrape reads metrics from B's side.
func scrape(ctx context.Context, b *network.Server, address string) (string, error) {
	client := http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, protocol, address string) (net.Conn, error) {
			return b.Dial(ctx, protocol, address, nil)
		},
		DisableKeepAlives: true,
	}}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return "", err
	}
	response, err := client.Do(request)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s", response.Status)
	}
	return string(text), err
}

// samples returns the lines of a metric that has labels, and the sum of their values.
func samples(text, metric string) (found []string, sum float64, err error) {
	for line := range strings.Lines(text) {
		if !strings.HasPrefix(line, metric+"{") {
			continue
		}
		line = strings.TrimSpace(line)
		value, err := strconv.ParseFloat(line[strings.LastIndexByte(line, ' ')+1:], 64)
		if err != nil {
			return nil, 0, fmt.Errorf("read the metrics: %s: %w", line, err)
		}
		found, sum = append(found, line), sum+value
	}
	return found, sum, nil
}
