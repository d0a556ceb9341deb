// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"os"
	"os/signal"

	sdnotify "github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sys/unix"

	"replypath/loader"
	"replypath/loader/detach"
)

// ThisHost returns what makes the commands work on this host.
func ThisHost() Host {
	return Host{
		Start:        func(o loader.Options) (Datapath, error) { return loader.New(o) },
		TakeBack:     detach.TakeBack,
		Confirm:      confirmTrial,
		EndObserver:  endObserver,
		Signals:      daemonSignals,
		TrialSignals: trialSignals,
		Stdin:        os.Stdin,
		Notify:       notifySystemd,
	}
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
