// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"replypath/test/bench/contender"
	"replypath/test/bench/load"
	"replypath/test/bench/report"
)

const (
	million = 1_000_000
	// bytesBound is what a flow may take.
	bytesBound = 150
	// scrapes is how often metrics are read.
	scrapes    = 20
	metricsURL = "http://127.0.0.1:9945/metrics"
)

// crowded is a server that a million peers have asked.
type crowded struct {
	site   *contender.Site
	daemon *contender.Daemon
}

// crowdFigures measures what a million flows take, and what it takes to read them.
func crowdFigures(ctx context.Context) (figures []report.Figure, err error) {
	site, err := contender.NewSite(ctx, contender.SiteOptions{})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, site.Close()) }()
	daemon, err := contender.StartDaemon(ctx, site.Server, contender.Options{Flows: million})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, daemon.Stop()) }()
	echo, err := load.ServeEcho(site)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, echo.Close()) }()
	if err := load.Introduce(ctx, site, 0, million); err != nil {
		return nil, err
	}
	c := &crowded{site, daemon}
	for _, measure := range []func(context.Context) ([]report.Figure, error){
		c.size, c.reading, c.scraping, c.resident,
	} {
		found, err := measure(ctx)
		if err != nil {
			return figures, err
		}
		figures = append(figures, found...)
	}
	return figures, nil
}

// size measures the kernel's memory.
func (c *crowded) size(context.Context) ([]report.Figure, error) {
	perFlow, err := c.daemon.BytesPerFlow()
	if err != nil {
		return nil, err
	}
	const name = "kernel memory for each flow of the table's capacity"
	return []report.Figure{report.NewFigure(name, "bytes", perFlow).Within(bytesBound)}, nil
}

// reading measures `replypath flows`.
func (c *crowded) reading(ctx context.Context) ([]report.Figure, error) {
	command := c.daemon.Command(ctx, "flows", "-o", "json")
	flows, messages := objects(0), new(bytes.Buffer)
	command.Stdout, command.Stderr = &flows, messages
	begun := time.Now()
	if err := command.Run(); err != nil {
		return nil, fmt.Errorf("replypath flows: %w: %s", err, messages)
	}
	took := time.Since(begun)
	if flows < million*99/100 {
		return nil, fmt.Errorf("replypath flows printed %d of %d flows", flows, million)
	}
	return []report.Figure{
		report.NewFigure("flows that `replypath flows -o json` printed", "flows", float64(flows)),
		report.NewFigure("`replypath flows -o json` of these", "s", took.Seconds()),
	}, nil
}

// objects counts the JSON objects that a program writes.
type objects int

// Write counts.
func (o *objects) Write(p []byte) (int, error) {
	*o += objects(bytes.Count(p, []byte{'{'}))
	return len(p), nil
}

// scraping measures reading metrics while new flows come in.
func (c *crowded) scraping(ctx context.Context) (figures []report.Figure, err error) {
	churning, stop := context.WithCancel(ctx)
	churn := make(chan error, 1)
	go func() { churn <- load.Introduce(churning, c.site, million, million) }()
	defer func() {
		stop()
		err = errors.Join(err, ignoreCancel(<-churn))
	}()
	transport := &http.Transport{DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
		return c.site.Server.Dial(ctx, network, address)
	}}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport}
	var times []float64
	for range scrapes {
		begun := time.Now()
		if err := scrape(ctx, client); err != nil {
			return nil, err
		}
		times = append(times, 1000*time.Since(begun).Seconds())
	}
	const name = "a scrape of metrics with a million flows, while others come in"
	return []report.Figure{report.NewFigure(name, "ms", times...)}, nil
}

func scrape(ctx context.Context, client *http.Client) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, metricsURL, nil)
	if err != nil {
		return err
	}
	response, err := client.Do(request)
	if err != nil {
		return fmt.Errorf("read the metrics: %w", err)
	}
	defer response.Body.Close()
	if _, err := io.Copy(io.Discard, response.Body); err != nil {
		return fmt.Errorf("read the metrics: %w", err)
	}
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("read the metrics: %s", response.Status)
	}
	return nil
}

// resident measures the process's memory, after all that.
func (c *crowded) resident(context.Context) ([]report.Figure, error) {
	resident, err := residentMemory(c.daemon.PID())
	if err != nil {
		return nil, err
	}
	const name = "resident memory with a million flows, after these scrapes"
	return []report.Figure{report.NewFigure(name, "MiB", float64(resident)/mebibyte).Within(residentBound)}, nil
}
