// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"bufio"
	"context"
	"io"
	"log/slog"
	"os"

	"replypath/loader"
	"replypath/loader/config"
	"replypath/loader/status"
	"replypath/metrics"
)

// Host is what the commands of this package reach the host through.
type Host struct {
	// Start attaches a datapath; see loader.New. With an error, the datapath may be a nil pointer.
	Start func(loader.Options) (Datapath, error)
	// TakeBack ends a trial; see detach.TakeBack. Confirm has the process keep it that has one going on.
	TakeBack func(pinDir string, log *slog.Logger) (bool, error)
	Confirm  func(ctx context.Context, pinDir string) error
	// EndObserver ends the daemon of a pin directory if it only observes, and returns its pid; 0 if it enforces, or is not known.
	EndObserver func(ctx context.Context, pinDir string) (pid int, err error)
	// Signals delivers what reloads and what ends a daemon.
	Signals func() (reload, end <-chan os.Signal, stop func())
	// TrialSignals delivers what ends a trial, until stop is called; Enter at Stdin confirms it.
	TrialSignals func() (signals <-chan os.Signal, stop func())
	Stdin        io.Reader
	// Notify tells the service manager, if there is one, how the daemon does.
	Notify func(state string) error
}

// Datapath is what run keeps going; see loader.Loader.
type Datapath interface {
	metrics.Source
	Run(context.Context) error
	Reload(*config.Config) error
	ReportConfigError(error)
	SetError(name string, err error)
	// CountDown begins the time of a trial, Keep confirms it.
	CountDown() error
	Keep() error
	// Effect tells what it does by itself.
	Effect() (*status.Effect, error)
	Close() error
}

// enter tells when a line was read from input. The end of the input is no
// line.
func enter(input io.Reader) <-chan struct{} {
	pressed := make(chan struct{})
	go func() {
		if _, err := bufio.NewReader(input).ReadString('\n'); err == nil {
			close(pressed)
		}
	}()
	return pressed
}
