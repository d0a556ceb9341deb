// SPDX-License-Identifier: Apache-2.0

// Package daemon is what attaches and detaches: run, which keeps watch, try and what watches over it, and detach.
package daemon

import (
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"time"

	sdnotify "github.com/coreos/go-systemd/v22/daemon"

	"replypath/cmd/replypath/cli"
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

// attach reads the configuration and puts the datapath in place.
func (d *daemon) attach() error {
	cfg, found, err := d.load()
	if err != nil {
		return err
	}
	d.config, d.fromFile = cfg, found
	logging := cfg.Log
	if d.trial != 0 && logging.Level == slog.LevelInfo {
		logging.Level = slog.LevelWarn // what goes well is in the way of who has to confirm
	}
	d.log, d.logging = newLogger(d.Stderr, logging)
	d.warn()
	options := loader.Options{
		PinDir: d.PinDir, Config: cfg, Log: d.log, Version: d.Version,
		Mechanism: d.mechanism, Trial: d.trial, Passed: d.watchdog(),
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

// watchdog returns what tells the service manager that the loop goes round, three times as often as it wants to know. It is
// to be called several times a second.
func (d *daemon) watchdog() (passed func()) {
	patience, err := sdnotify.SdWatchdogEnabled(false)
	if err != nil {
		d.log.Warn("the service manager's watchdog is not served", "error", err)
	}
	if patience == 0 {
		return nil
	}
	var told time.Time
	return func() {
		if now := time.Now(); now.Sub(told) >= patience/3 {
			told = now
			d.tell(sdnotify.SdNotifyWatchdog)
		}
	}
}
