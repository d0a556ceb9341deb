package main

import (
	"context"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"time"

	"replypath/loader/attach"
	"replypath/loader/config"
	"replypath/loader/doctor"
	"replypath/loader/explain"
	"replypath/loader/flows"
	"replypath/loader/status"
	"replypath/loader/top"
	"replypath/loader/trace"
	"replypath/metrics"
)

// deps is everything that the commands reach the host through. Tests put their
// own in its place.
type deps struct {
	// start attaches a datapath; see loader.New.
	start func(startOptions) (datapath, error)
	// detach takes a datapath away; see loader.Detach.
	detach func(ctx context.Context, pinDir string, stop bool, log *slog.Logger) (removed []string, err error)
	// guard starts a process that takes a trial back when this one cannot; see
	// startGuardian. takeBack does it here; see loader.TakeBack. confirm has the
	// process do that has one going on.
	guard    func(pinDir string, timeout time.Duration) (*guardian, error)
	takeBack func(pinDir string, pid int, log *slog.Logger) (bool, error)
	confirm  func(ctx context.Context, pinDir string) error
	// status, mode and setMode work on the pins, with or without a daemon.
	status  func(pinDir string) (*status.Status, error)
	mode    func(pinDir string) (string, error)
	setMode func(pinDir, mode string) (undone []string, err error)
	// examine and fix look at the host; see doctor.Examine and doctor.Fix.
	examine, fix func(doctor.Options) ([]doctor.Finding, error)
	// flows opens the pinned flow tables.
	flows func(pinDir string) (flowTable, error)
	// explain tells where a packet goes and why.
	explain func(pinDir string, q explain.Question) (*explain.Answer, error)
	// trace tells of packets as they pass; newProbe makes one to be traced.
	trace    func(ctx context.Context, pinDir string, filter trace.Filter, o trace.Observer) error
	newProbe func(peer, self netip.Addr) (probe, error)
	// top looks at a datapath again and again.
	top func(pinDir string, flows int) (monitor, error)
	// survey tells what a configuration means on this host, or why it is not valid there.
	survey func(*config.Config) (survey, []string, error)
	// signals delivers what reloads and what ends a daemon; see daemonSignals.
	signals func() (reload, end <-chan os.Signal, stop func())
	// trialSignals delivers what ends a trial, until stop is called; Enter at stdin confirms it.
	trialSignals func() (signals <-chan os.Signal, stop func())
	stdin        io.Reader
	// notify tells the service manager, if there is one, how the daemon does.
	notify func(state string) error
}

// startOptions are what a datapath is attached with.
type startOptions struct {
	pinDir     string
	config     *config.Config
	configPath string // empty for the defaults
	log        *slog.Logger
	mechanism  attach.Mechanism // attach.Auto unless one is named
	trial      time.Duration    // 0: for good
}

// datapath is what run keeps going; see loader.Loader.
type datapath interface {
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
	// Source is where the metrics come from.
	Source() metrics.Source
}

// probe is a packet that is sent to see its way; see trace.Probe.
type probe interface {
	Send() error
	IsOf(*trace.Packet) bool
	Close() error
}

// monitor tells what happened since the look before; see top.Monitor.
type monitor interface {
	Look() (*top.Look, error)
	Close() error
}

// flowTable is what the flow commands read and clear; see flows.Table.
type flowTable interface {
	List(flows.Filter) ([]flows.Flow, error)
	Flush(flows.Filter) (int, error)
	Follow(ctx context.Context, filter flows.Filter, every time.Duration, each func(flows.Flow) error) error
	Close() error
}
