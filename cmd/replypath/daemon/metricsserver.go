// SPDX-License-Identifier: Apache-2.0

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

// serveMetrics begins to serve as configured, until stop is called. It does not fail: while the address
// cannot be had, or the web configuration is bad, the error stands in the status, and
// it is tried again. Neither is worth the reply path.
func (d *daemon) serveMetrics(ctx context.Context) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
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
	var done sync.WaitGroup
	done.Go(func() {
		defer settle()
		metrics.ServeUntil(ctx, options, func(err error) {
			err = blameWebConfig(&settings, err)
			d.datapath.SetError("metrics", err)
			if err != nil {
				d.log.Error("metrics are not served, trying again", "error", err)
			}
			settle()
		})
	})
	<-settled.Done()
	return func() {
		cancel()
		done.Wait()
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
