// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"log/slog"
	"net/netip"
	"os"

	"replypath/cmd/replypath/daemon"
	"replypath/cmd/replypath/show"
	topcommand "replypath/cmd/replypath/top"
	"replypath/loader/config"
	"replypath/loader/detach"
	"replypath/loader/discover"
	"replypath/loader/discover/dump"
	"replypath/loader/doctor"
	"replypath/loader/explain"
	"replypath/loader/flows"
	"replypath/loader/plan"
	"replypath/loader/status"
	"replypath/loader/top"
	"replypath/loader/trace"
)

// host is everything that the commands reach the host through. Tests put their own in its place.
type host struct {
	daemon  daemon.Host
	detach  daemon.Detach
	scan    show.Scan
	status  func(pinDir string) (*status.Status, error)
	mode    func(pinDir string) (string, error)
	setMode func(pinDir, mode string) (undone []string, err error)
	flows   func(pinDir string) (show.FlowTable, error)
	explain func(pinDir string, q explain.Question) (*explain.Answer, error)
	trace   show.Follow
	probe   show.MakeProbe
	top     topcommand.Watch
	examine show.Examine
	plan    show.MakePlan
}

// thisHost returns what makes the commands work on this host. With an error, what is opened may be a nil pointer.
func thisHost() host {
	return host{
		daemon:  daemon.ThisHost(),
		detach:  detach.Run,
		scan:    scan,
		status:  doctor.Status,
		mode:    status.Mode,
		setMode: setMode,
		flows:   func(pinDir string) (show.FlowTable, error) { return flows.Open(pinDir) },
		explain: explain.Ask,
		trace:   trace.Follow,
		probe:   func(peer, self netip.Addr) (show.Probe, error) { return trace.NewProbe(peer, self) },
		top: func(pinDir string, o flows.Order, limit int) topcommand.Look {
			return top.New(pinDir, o, limit).Look
		},
		examine: doctor.Examine,
		plan:    plan.Make,
	}
}

func scan(cfg *config.Config) (discover.Result, error) {
	handle, err := dump.Open()
	if err != nil {
		return discover.Result{}, err
	}
	defer handle.Close()
	return discover.Scan(handle, cfg)
}

// setMode sets the mode of what is there for good: a trial that nobody has confirmed is taken back before.
func setMode(pinDir, mode string) (undone []string, err error) {
	done, err := detach.TakeBack(pinDir, slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})))
	if done {
		fmt.Fprintln(os.Stderr, "replypath: a trial was not confirmed, it is taken back")
	}
	if err != nil {
		return nil, err
	}
	return status.SetMode(pinDir, mode)
}
