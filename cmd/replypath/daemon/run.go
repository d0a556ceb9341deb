// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime/debug"

	sdnotify "github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"replypath/cmd/replypath/cli"
	"replypath/loader/attach"
	"replypath/loader/config"
	"replypath/loader/problems"
)

// NewRun returns the command run.
func NewRun(a *cli.App, host Host) *cobra.Command {
	d := &daemon{App: a, host: host}
	c := &cobra.Command{
		Use:   "run",
		Short: "Attach, keep watch and serve metrics",
		Long: `Attach to every managed interface, keep the maps in the kernel current and serve
metrics. SIGTERM or SIGINT ends the process.

What is attached stays in place when the process ends, for whatever reason. It goes on
to correct replies, or to observe them. The next run takes over without losing a flow.
replypath detach removes it.

A network namespace has one datapath. A run with another --pin-dir is refused. The
error names the pins and the process of the other.

The log says ready once everything is attached. It names the mode, the interfaces, the
mechanism and what was changed on the host. systemd is notified. At its end the process
logs what stays, and the command that removes it.

SIGHUP reads the configuration again (see replypath.yaml(5)). A bad file is logged, and
the configuration in force stays. Flags win over the file.`,
		Example: `  replypath run
  replypath run --interface eth0 --interface eth1 --observe
  replypath run --config ./replypath.yaml --listen ""`,
		Args: cli.NoArguments,
	}
	d.addFlags(c)
	c.RunE = func(c *cobra.Command, _ []string) error { return d.run(c.Context()) }
	return c
}

// addFlags gives a command the flags that say what is attached.
func (d *daemon) addFlags(c *cobra.Command) {
	d.file = cli.AddConfigFile(c)
	flags := c.Flags()
	flags.StringArrayVar(&d.overrides.Interfaces, "interface", nil, "manage this interface `name` and no others; may be given again")
	flags.BoolVar(&d.overrides.Observe, "observe", false, "only count what would be moved; attach programs, change nothing else")
	listen := flags.String("listen", config.Default().Metrics.Listen, "serve metrics at this `address`; empty: do not")
	cli.AddChoice(c, &d.mechanism, "mechanism", "", "tcx|clsact", "attach by this only", attach.TCX, attach.Clsact)
	flags.Lookup("mechanism").Hidden = true // for tests: an operator has no reason to choose
	cli.Complete(c, "interface", cli.InterfaceNames)
	c.PreRun = func(*cobra.Command, []string) {
		d.overrides.Mechanism = string(d.mechanism)
		if flags.Changed("listen") {
			d.overrides.Listen = listen
		}
	}
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
	d.log.Info(stays+"; "+ends, "pin_dir", d.GivenPinDir)
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

// whatStays says what goes on without this process, as hooks and modes have it now, and what ends that.
func (d *daemon) whatStays() (stays, ends string) {
	effect, err := d.datapath.Effect()
	switch {
	case err != nil:
		return fmt.Sprintf("what is attached stays, and cannot be shown (%v)", err), "`" + d.CommandLine("detach") + "` ends that"
	case effect.Detaching:
		return "what is attached goes", "`" + d.CommandLine("detach --stop") + "` takes it away"
	case !isAttached(effect):
		return sentence(effect, "still "), "`" + d.CommandLine("detach") + "` removes the pins"
	}
	return sentence(effect, "still "), "`" + d.CommandLine("detach") + "` ends that"
}

// logReady tells what has begun.
func (d *daemon) logReady() {
	about := []any{"pin_dir", d.GivenPinDir, "version", d.Version}
	effect, err := d.datapath.Effect()
	if err != nil {
		d.log.Info("ready", append(about, "error", err)...)
		return
	}
	d.log.Info("ready", append(about, described(effect)...)...)
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
		d.log.Error("configuration refused, the one in force stays", "error", problems.OneLine(err))
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

// reloadingState is what sd_notify(3) wants at the begin of a reload.
func reloadingState() string {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return sdnotify.SdNotifyReloading
	}
	return fmt.Sprintf("%s\nMONOTONIC_USEC=%d", sdnotify.SdNotifyReloading, now.Nano()/1000)
}
