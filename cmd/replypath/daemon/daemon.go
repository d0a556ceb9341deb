// Package daemon is what attaches and detaches: run, which keeps watch, try and what watches over it, and detach.
package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/debug"
	"time"

	sdnotify "github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sys/unix"

	"replypath/cmd/replypath/cli"
	"replypath/cmd/replypath/output"
	"replypath/loader"
	"replypath/loader/attach"
	"replypath/loader/config"
	"replypath/loader/pins"
)

// daemon is the process behind `replypath run`.
type daemon struct {
	*cli.App
	host      Host
	file      *cli.ConfigFile
	overrides config.Overrides
	mechanism attach.Mechanism // of attachment; empty for the best there is
	trial     time.Duration    // until it has to be confirmed; 0: for good

	log         *slog.Logger
	logging     *logControl
	config      *config.Config // in force
	fromFile    bool           // the file was there
	datapath    Datapath
	stopMetrics func()
}

// run attaches and keeps watch until a signal or the end of ctx. What is
// attached stays.
func (d *daemon) run(ctx context.Context) error {
	reload, end, stop := d.host.Signals()
	defer stop()
	saveMemory()
	if err := d.attach(); err != nil {
		return err
	}
	running, unwatch := d.watch(ctx)
	d.logReady()
	d.tell(sdnotify.SdNotifyReady)

	told := d.heed(running, reload, end) || ctx.Err() != nil
	stop() // a second signal ends the process at once
	d.tell(sdnotify.SdNotifyStopping)
	failure := unwatch()
	stays, ends := d.whatStays() // while it can be looked at
	err := errors.Join(failure, d.datapath.Close())
	if !told && err != nil {
		return fmt.Errorf("%w: %s: start replypath run again", err, stays)
	}
	if err != nil { // who told the daemon to end gets no error for what went wrong on the way
		d.log.Error("ended with an error", "error", err)
	}
	d.log.Info(stays+"; "+ends, "pin_dir", d.PinDir)
	return nil
}

// watch keeps the datapath going and serves metrics. running ends when ctx does, or with the error with which the
// datapath fails; unwatch ends both, and returns that error.
func (d *daemon) watch(ctx context.Context) (running context.Context, unwatch func() error) {
	running, cancel := context.WithCancelCause(ctx)
	ended := make(chan error, 1)
	go func() {
		err := d.datapath.Run(running)
		ended <- err
		cancel(err)
	}()
	d.stopMetrics = d.serveMetrics(running)
	return running, func() error {
		cancel(nil)
		err := <-ended
		d.stopMetrics()
		return err
	}
}

// saveMemory collects garbage twice as often: a daemon that mostly waits has time for
// that. An operator's GOGC says better.
func saveMemory() {
	const percent = 50
	if _, set := os.LookupEnv("GOGC"); !set {
		debug.SetGCPercent(percent)
	}
}

// heed obeys signals until one says that it is time to end, which it reports,
// or ctx ends. Who is told to end does not reload before.
func (d *daemon) heed(ctx context.Context, reload, end <-chan os.Signal) (told bool) {
	for {
		select {
		case <-end:
			return true
		default:
		}
		select {
		case <-end:
			return true
		case <-reload:
			d.reload(ctx)
		case <-ctx.Done():
			return false
		}
	}
}

// attach reads the configuration and puts the datapath in place.
func (d *daemon) attach() error {
	cfg, found, err := d.load()
	if err != nil {
		return err
	}
	d.config, d.fromFile = cfg, found
	if d.trial != 0 && cfg.Log.Level == slog.LevelInfo {
		cfg.Log.Level = slog.LevelWarn // what goes well is in the way of who has to confirm
	}
	d.log, d.logging = newLogger(d.Stderr, cfg.Log)
	d.warn()
	options := loader.Options{
		PinDir: d.PinDir, Config: cfg, Log: d.log, Version: d.Version,
		Mechanism: d.mechanism, Trial: d.trial,
	}
	if found {
		if options.ConfigPath, err = filepath.Abs(d.file.Path); err != nil { // who reads it is elsewhere
			return fmt.Errorf("find the directory of %s: %w", d.file.Path, err)
		}
	}
	d.datapath, err = d.host.Start(options)
	if errors.Is(err, pins.ErrOwned) {
		return fmt.Errorf("%w: end it first", err)
	}
	return err
}

// load returns what the file and the flags say together.
func (d *daemon) load() (cfg *config.Config, found bool, err error) {
	cfg, found, err = d.file.Load()
	if err != nil {
		return nil, false, err
	}
	return cfg, found, d.overrides.Apply(cfg)
}

// reload reads the configuration again. Whatever is wrong with it, the one in
// force stays.
func (d *daemon) reload(ctx context.Context) {
	d.tell(reloadingState())
	defer d.tell(sdnotify.SdNotifyReady)
	cfg, found, err := d.load()
	if err == nil && d.fromFile && !found {
		err = &config.Error{File: d.file.Path, Message: "the file is gone: put it back, an empty one will do"}
	}
	if err == nil && !cfg.Metrics.Same(&d.config.Metrics) {
		err = CheckMetrics(&cfg.Metrics)
	}
	if err == nil {
		err = d.datapath.Reload(cfg)
	}
	if err != nil {
		d.log.Error("configuration refused, the one in force stays", "error", output.OneLine(err))
		d.datapath.ReportConfigError(err)
		return
	}
	d.adopt(ctx, cfg, found)
	d.log.Info("configuration reloaded")
}

// adopt applies what this process itself takes from a new configuration.
func (d *daemon) adopt(ctx context.Context, cfg *config.Config, found bool) {
	before := d.config
	d.config, d.fromFile = cfg, found
	d.logging.set(cfg.Log)
	d.warn()
	if !cfg.Metrics.Same(&before.Metrics) {
		d.stopMetrics()
		d.stopMetrics = d.serveMetrics(ctx)
	}
}

// warn logs what is odd in the configuration itself; what does not fit the
// host's interfaces is for the datapath to tell, which sees them change.
func (d *daemon) warn() {
	for _, warning := range d.config.Warnings() {
		d.log.Warn(warning)
	}
}

// tell informs the service manager. That it cannot be told is no reason to stop.
func (d *daemon) tell(state string) {
	if err := d.host.Notify(state); err != nil {
		d.log.Warn("cannot notify the service manager", "error", err)
	}
}

// reloadingState is what sd_notify(3) wants at the begin of a reload.
func reloadingState() string {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return sdnotify.SdNotifyReloading
	}
	return fmt.Sprintf("%s\nMONOTONIC_USEC=%d", sdnotify.SdNotifyReloading, now.Nano()/1000)
}
