// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"replypath/test/bench/contender"
	"replypath/test/bench/load"
	"replypath/test/bench/report"
)

const (
	mebibyte = 1 << 20
	// residentBound in MiB and readyBound in seconds are what the project promises.
	residentBound = 40
	readyBound    = 1
)

// startFigures measures how long it takes until the first reply is corrected, and the memory of the process after that.
func startFigures(ctx context.Context) ([]report.Figure, error) {
	var corrected, ready, resident []float64
	for range repeats {
		s, err := startOnce(ctx)
		if err != nil {
			return nil, err
		}
		corrected = append(corrected, s.corrected.Seconds())
		ready = append(ready, s.ready.Seconds())
		resident = append(resident, float64(s.resident)/mebibyte)
	}
	return []report.Figure{
		report.NewFigure("start to the first corrected reply", "s", corrected...),
		report.NewFigure("start to READY", "s", ready...).Within(readyBound),
		report.NewFigure("resident memory", "MiB", resident...).Within(residentBound),
	}, nil
}

// start is one start of the daemon, beside questions that are asked all the time.
type start struct {
	corrected, ready time.Duration
	resident         uint64 // bytes
}

func startOnce(ctx context.Context) (s start, err error) {
	site, err := contender.NewSite(ctx, contender.SiteOptions{})
	if err != nil {
		return start{}, err
	}
	defer func() { err = errors.Join(err, site.Close()) }()
	echo, err := load.Named("udp-echo-64")
	if err != nil {
		return start{}, err
	}
	work, err := echo[0].Start(ctx, site, nil)
	if err != nil {
		return start{}, err
	}
	defer func() { err = errors.Join(err, work.Close()) }()

	ctx, cancel := context.WithCancel(ctx)
	begun := time.Now()
	asked, moved := make(chan error, 1), make(chan error, 1)
	go func() {
		_, err := work.Run(ctx, figuresTime)
		asked <- err
	}()
	// Before its sockets are closed.
	defer func() {
		cancel()
		err = errors.Join(err, ignoreCancel(<-asked))
	}()
	go func() {
		err := awaitCorrected(ctx, site)
		s.corrected = time.Since(begun)
		moved <- err
	}()
	daemon, err := contender.StartDaemon(ctx, site.Server, contender.Options{})
	if err != nil {
		cancel()
		return start{}, errors.Join(err, ignoreCancel(<-moved))
	}
	defer func() { err = errors.Join(err, daemon.Stop()) }()
	if err := <-moved; err != nil {
		return start{}, err
	}
	s.ready = daemon.ReadyAfter
	s.resident, err = residentMemory(daemon.PID())
	return s, err
}

// ignoreCancel leaves out what only says that somebody else has given up.
func ignoreCancel(err error) error {
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// moreThanARP is more packets than neighbour discovery sends.
const moreThanARP = 10

// awaitCorrected returns when replies leave by eth1.
func awaitCorrected(ctx context.Context, site *contender.Site) error {
	before, err := site.Sent()
	if err != nil {
		return err
	}
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		now, err := site.Sent()
		if err != nil || now.Eth1 > before.Eth1+moreThanARP {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("wait for a corrected reply: %w", context.Cause(ctx))
		}
	}
}

// residentMemory returns a process's VmRSS in bytes (proc(5)).
func residentMemory(pid int) (uint64, error) {
	path := fmt.Sprintf("/proc/%d/status", pid)
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	for line := range bytes.Lines(text) {
		fields := bytes.Fields(line)
		if len(fields) == 3 && string(fields[0]) == "VmRSS:" && string(fields[2]) == "kB" {
			kibibytes, err := strconv.ParseUint(string(fields[1]), 10, 64)
			return kibibytes << 10, err
		}
	}
	return 0, fmt.Errorf("%s has no VmRSS", path)
}
