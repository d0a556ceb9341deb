package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/signal"

	sdnotify "github.com/coreos/go-systemd/v22/daemon"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"replypath/loader"
	"replypath/loader/config"
	"replypath/loader/discover"
	"replypath/loader/doctor"
	"replypath/loader/explain"
	"replypath/loader/flows"
	"replypath/loader/status"
	"replypath/loader/top"
	"replypath/loader/trace"
)

// host returns what makes the commands work on this host.
func host() deps {
	return deps{
		start:        startLoader,
		detach:       detachLoader,
		guard:        startGuardian,
		takeBack:     loader.TakeBack,
		confirm:      confirmTrial,
		status:       status.Read,
		mode:         status.Mode,
		setMode:      status.SetMode,
		examine:      doctor.Examine,
		fix:          doctor.Fix,
		flows:        openFlows,
		explain:      explain.Ask,
		trace:        trace.Follow,
		newProbe:     func(peer, self netip.Addr) (probe, error) { return trace.NewProbe(peer, self) },
		top:          openTop,
		survey:       surveyHost,
		signals:      daemonSignals,
		trialSignals: trialSignals,
		stdin:        os.Stdin,
		notify:       notifySystemd,
	}
}

// openFlows keeps a nil table from becoming an interface that is not nil.
func openFlows(pinDir string) (flowTable, error) {
	table, err := flows.Open(pinDir)
	if err != nil {
		return nil, err
	}
	return table, nil
}

// openTop keeps a nil monitor from becoming an interface that is not nil.
func openTop(pinDir string, limit int) (monitor, error) {
	opened, err := top.Open(pinDir, limit)
	if err != nil {
		return nil, err
	}
	return opened, nil
}

func startLoader(o startOptions) (datapath, error) {
	l, err := loader.New(loader.Options{
		PinDir: o.pinDir, Config: o.config, ConfigPath: o.configPath, Log: o.log, Version: productVersion(),
		Mechanism: o.mechanism, Trial: o.trial,
	})
	if err != nil {
		return nil, err
	}
	return attached{l}, nil
}

func detachLoader(ctx context.Context, pinDir string, stop bool, log *slog.Logger) ([]string, error) {
	return loader.Detach(ctx, loader.DetachOptions{PinDir: pinDir, Stop: stop, Log: log})
}

// surveyHost looks at the interfaces that are there, which takes no rights, and returns what a
// configuration means for them, with warnings. An error that matches config.ErrInvalid says that
// they cannot follow the configuration, any other that it is not known.
func surveyHost(cfg *config.Config) (s survey, warnings []string, err error) {
	handle, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return s, nil, fmt.Errorf("open a netlink socket: %w", err)
	}
	defer handle.Close()
	found, err := discover.Scan(handle, cfg)
	if err != nil {
		return s, nil, err
	}
	for _, i := range found.Interfaces {
		s.Interfaces = append(s.Interfaces, checkedInterface{i.Name, string(i.Settings.Mode), string(i.Settings.NextHop)})
	}
	for _, u := range found.Unmanaged {
		s.Unmanaged = append(s.Unmanaged, status.Unmanaged(u))
	}
	s.Missing = found.Missing
	astray, err := found.Astray(handle)
	for n := range astray {
		found.Warnings = append(found.Warnings, astray[n].String())
	}
	return s, found.Warnings, errors.Join(err, found.Contradiction)
}

// daemonSignals delivers SIGHUP apart from SIGTERM and SIGINT, so that no number of reloads
// that nobody has time for hides the end. Many of them become one, which comes after the
// last. stop gives SIGTERM and SIGINT their usual effect again, but not SIGHUP: a reload
// that comes too late must not kill the process before it has ended in order. It also
// keeps a journal that goes away from ending the process by SIGPIPE.
func daemonSignals() (reload, end <-chan os.Signal, stop func()) {
	signal.Ignore(unix.SIGPIPE)
	hangups, ends := make(chan os.Signal, 1), make(chan os.Signal, 1)
	signal.Notify(hangups, unix.SIGHUP)
	signal.Notify(ends, unix.SIGTERM, unix.SIGINT)
	return hangups, ends, func() { signal.Stop(ends) }
}

// trialSignals delivers what confirms a trial (SIGUSR1) and what ends it, SIGHUP of a
// terminal that is gone included. Who reads from the terminal in the background gets
// an error rather than being stopped.
func trialSignals() (<-chan os.Signal, func()) {
	signal.Ignore(unix.SIGPIPE, unix.SIGTTIN, unix.SIGTTOU)
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, unix.SIGUSR1, unix.SIGHUP, unix.SIGTERM, unix.SIGINT)
	return signals, func() { signal.Stop(signals) }
}

func notifySystemd(state string) error {
	_, err := sdnotify.SdNotify(false, state)
	return err
}
