package main

import (
	"context"
	"sync"
	"time"

	"replypath/metrics"
)

// firstListen is how long the start waits for the metrics to be served, so that
// who was told of a ready daemon can scrape it. It waits no longer: a name
// server that does not answer must not hold up the boot.
const firstListen = 500 * time.Millisecond

// metricsServer serves the metrics for as long as one configuration holds.
type metricsServer struct {
	cancel context.CancelFunc
	done   sync.WaitGroup
}

// serveMetrics begins to serve as configured. It does not fail: while the
// address cannot be had the error stands in the status, and it is tried again.
func (d *daemon) serveMetrics(ctx context.Context) *metricsServer {
	ctx, cancel := context.WithCancel(ctx)
	server := &metricsServer{cancel: cancel}
	settled, settle := context.WithTimeout(ctx, firstListen)
	options := metrics.Options{
		Listen:        d.config.Metrics.Listen,
		WebConfigFile: d.config.Metrics.WebConfigFile,
		Source:        d.datapath.Source(),
		Version:       productVersion(),
		Log:           d.log,
	}
	d.datapath.SetError("metrics", nil)
	server.done.Go(func() {
		defer settle()
		metrics.ServeUntil(ctx, options, func(err error) {
			d.reportMetrics(err)
			settle()
		})
	})
	<-settled.Done()
	return server
}

// reportMetrics notes that serving began to fail, or works again.
func (d *daemon) reportMetrics(err error) {
	d.datapath.SetError("metrics", err)
	if err != nil {
		d.log.Error("metrics are not served, trying again", "error", err)
	}
}

func (s *metricsServer) stop() {
	s.cancel()
	s.done.Wait()
}
