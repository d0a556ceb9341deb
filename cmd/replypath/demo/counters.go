package demo

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"

	"replypath/loader/config"
)

// correctedPackets is the counter that has to agree with the captures.
const correctedPackets = "replypath_corrected_packets_total"

// showMetrics shows counters and compares them with the captures.
func (d *demo) showMetrics(ctx context.Context, r *round) error {
	address := "http://" + config.Default().Metrics.Listen + "/metrics"
	d.heading("What Prometheus reads from B: %s", address)
	text, err := d.scrape(ctx, address)
	if err != nil {
		return err
	}
	corrected := samples(text, correctedPackets)
	for _, sample := range corrected {
		d.quote(sample)
	}
	counted, err := sum(corrected)
	if err != nil {
		return err
	}
	captured := len(frames(r.byEth1, r.questions))
	d.require(counted == float64(captured), "%s counts %g packets, %d were captured on eth1", correctedPackets, counted, captured)
	if counted == float64(captured) {
		d.good("%g packets counted, as many as captured on the cable of eth1", counted)
	} else {
		d.bad("%g packets counted, %d captured on the cable of eth1", counted, captured)
	}
	return nil
}

// scrape reads metrics from B's side.
func (d *demo) scrape(ctx context.Context, address string) (string, error) {
	transport := &http.Transport{
		DialContext: func(ctx context.Context, protocol, address string) (net.Conn, error) {
			return d.net.B.Dial(ctx, protocol, address, nil)
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
