// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"replypath/test/bench/contender"
	"replypath/test/bench/load"
	"replypath/test/bench/report"
)

// profiled are the workloads of whose time the programs' part is measured.
var profiled = []string{"udp-echo-64", "tcp-rr", "tcp-crr", "tcp-bulk", "tcp-bulk-in", "nginx", "nginx-connect", "forward"}

// compared are those of them that other contenders with programs are held against.
var compared = profiled[:3]

// profile is what the programs take of a unit of work.
type profile struct {
	runs, nanoseconds float64
	share             float64 // of all the time, which is that of one core
}

// programFigures measures the programs' part by the kernel's statistics, which are on for that long and take part of
// the time themselves. Other than a ratio of two rates, the part is hardly moved by whoever else uses the machine.
func programFigures(ctx context.Context) (figures []report.Figure, err error) {
	stats, err := ebpf.EnableStats(unix.BPF_STATS_RUN_TIME)
	if err != nil {
		return nil, fmt.Errorf("have the kernel time the programs: %w", err)
	}
	defer func() { err = errors.Join(err, stats.Close()) }()
	for _, part := range []struct {
		contender string
		workloads []string
	}{{contender.Replypath, profiled}, {contender.Floor, compared}} {
		more, err := profilesOf(ctx, part.contender, part.workloads)
		figures = append(figures, more...)
		if err != nil {
			return figures, err
		}
	}
	return figures, nil
}

// profilesOf measures the programs of a contender at several workloads.
func profilesOf(ctx context.Context, name string, workloads []string) (figures []report.Figure, err error) {
	contenders, err := contender.Named(name)
	if err != nil {
		return nil, err
	}
	loads, err := load.Named(workloads...)
	if err != nil {
		return nil, err
	}
	for _, w := range loads {
		var runs, nanoseconds, shares []float64
		for range repeats {
			p, err := profileOf(ctx, contenders[0], w)
			if err != nil {
				return figures, fmt.Errorf("%s: %w", w.Name, err)
			}
			runs, nanoseconds, shares = append(runs, p.runs), append(nanoseconds, p.nanoseconds), append(shares, 100*p.share)
		}
		figures = append(figures,
			report.NewFigure(w.Name+", "+name+": runs of programs", "runs", runs...),
			report.NewFigure(w.Name+", "+name+": time in the programs", "ns", nanoseconds...),
			report.NewFigure(w.Name+", "+name+": the programs' part of all the time", "%", shares...))
	}
	return figures, nil
}

// profileOf has a workload done on a site of its own.
func profileOf(ctx context.Context, c *contender.Contender, w *load.Workload) (p profile, err error) {
	site, err := contender.NewSite(ctx, w.Site())
	if err != nil {
		return profile{}, err
	}
	defer func() { err = errors.Join(err, site.Close()) }()
	running, err := c.SetUp(ctx, site, contender.Options{CPUs: load.OtherCPUs()})
	if err != nil {
		return profile{}, err
	}
	defer func() { err = errors.Join(err, running.Stop()) }()
	timed, ok := running.(contender.Timed)
	if !ok {
		return profile{}, fmt.Errorf("%s has no programs that can be timed", c.Name)
	}
	work, err := w.Start(ctx, site, nil)
	if err != nil {
		return profile{}, err
	}
	defer func() { err = errors.Join(err, work.Close()) }()
	if _, err := work.Run(ctx, shortTime); err != nil {
		return profile{}, fmt.Errorf("warm up: %w", err)
	}
	return timePrograms(ctx, timed, work)
}

// timePrograms compares the programs' clocks before and after work that is warm, and goes on meanwhile.
func timePrograms(ctx context.Context, timed contender.Timed, work load.Work) (p profile, err error) {
	programs, err := timed.OpenPrograms()
	if err != nil {
		return profile{}, err
	}
	defer func() { err = errors.Join(err, programs.Close()) }()
	before, err := programs.Time()
	if err != nil {
		return profile{}, err
	}
	begun := time.Now()
	rate, err := work.Run(ctx, shortTime)
	if err != nil {
		return profile{}, err
	}
	after, err := programs.Time()
	if err != nil {
		return profile{}, err
	}
	units := rate * time.Since(begun).Seconds()
	nanoseconds := float64((after.Time - before.Time).Nanoseconds()) / units
	return profile{
		runs:        float64(after.Runs-before.Runs) / units,
		nanoseconds: nanoseconds,
		share:       nanoseconds * rate / float64(time.Second),
	}, nil
}
