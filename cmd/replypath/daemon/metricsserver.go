package daemon

import (
	"context"
	"errors"
	"sync"
	"time"

	"replypath/loader/config"
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

// serveMetrics begins to serve as configured. It does not fail: while the address
// cannot be had, or the web configuration is bad, the error stands in the status, and
// it is tried again. Neither is worth the reply path.
func (d *daemon) serveMetrics(ctx context.Context) *metricsServer {
	ctx, cancel := context.WithCancel(ctx)
	server := &metricsServer{cancel: cancel}
	settled, settle := context.WithTimeout(ctx, firstListen)
	settings := d.config.Metrics // those in force may be others by the next failure
	options := metrics.Options{
		Listen:        settings.Listen,
		WebConfigFile: settings.WebConfigFile,
		Source:        d.datapath,
		Version:       d.Version,
		Log:           d.log,
	}
	d.datapath.SetError("metrics", nil)
	server.done.Go(func() {
		defer settle()
		metrics.ServeUntil(ctx, options, func(err error) {
			d.reportMetrics(blameWebConfig(&settings, err))
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

// blameWebConfig names the line of the configuration behind an error of the web
// configuration. Other errors stay as they are.
func blameWebConfig(settings *config.Metrics, err error) error {
	if errors.Is(err, metrics.ErrWebConfig) {
		return settings.BlameWebConfig(err)
	}
	return err
}

// CheckMetrics returns an error where the metrics could not be served for the sake of
// the web configuration: then those that are served now must not be given up.
func CheckMetrics(settings *config.Metrics) error {
	if settings.Listen == "" {
		return nil
	}
	return blameWebConfig(settings, metrics.CheckWebConfig(settings.WebConfigFile))
}

func (s *metricsServer) stop() {
	s.cancel()
	s.done.Wait()
}
