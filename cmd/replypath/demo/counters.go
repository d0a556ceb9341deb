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
func showMetrics(ctx context.Context, p *page, r *round) error {
	address := "http://" + config.Default().Metrics.Listen + "/metrics"
	p.heading("What Prometheus reads from B: %s", address)
	text, err := scrape(ctx, r.network.B, address)
	if err != nil {
		return err
	}
	corrected := samples(text, correctedPackets)
	for _, sample := range corrected {
		p.quote(sample)
	}
	counted, err := sum(corrected)
	if err != nil {
		return err
	}
	captured := len(frames(r.byEth1, r.questions))
	p.require(counted == float64(captured), "%s counts %g packets, %d were captured on eth1", correctedPackets, counted, captured)
	if counted == float64(captured) {
		p.good("%g packets counted, as many as captured on the cable of eth1", counted)
	} else {
		p.bad("%g packets counted, %d captured on the cable of eth1", counted, captured)
	}
	return nil
}

// scrape reads metrics from B's side.
func scrape(ctx context.Context, b *network.Server, address string) (string, error) {
	transport := &http.Transport{
		DialContext: func(ctx context.Context, protocol, address string) (net.Conn, error) {
			return b.Dial(ctx, protocol, address, nil)
		},
		DisableKeepAlives: true,
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return "", err
	}
	response, err := (&http.Client{Transport: transport}).Do(request)
	if err != nil {
		return "", fmt.Errorf("read the metrics: %w", err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return "", fmt.Errorf("read the metrics: %w", err)
	}
	if response.StatusCode != http.StatusOK {
		return "", fmt.Errorf("read the metrics: %s", response.Status)
	}
	return string(text), nil
}

// samples returns the lines of a metric that has labels.
func samples(text, metric string) []string {
	var found []string
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, metric+"{") {
			found = append(found, strings.TrimSpace(line))
		}
	}
	return found
}

// sum adds up the values of samples.
func sum(samples []string) (float64, error) {
	var total float64
	for _, sample := range samples {
		value, err := strconv.ParseFloat(sample[strings.LastIndexByte(sample, ' ')+1:], 64)
		if err != nil {
			return 0, fmt.Errorf("read the metrics: %s: %w", sample, err)
		}
		total += value
	}
	return total, nil
}
