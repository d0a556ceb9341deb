// SPDX-License-Identifier: Apache-2.0

// Command bench measures what the datapath costs a packet: each case is run by
// BPF_PROG_TEST_RUN next to an empty program in the same round, and the median
// of the differences is held against a bound. It needs root.
//
// The cases are in files by direction and concern (cases_ingress.go, cases_egress.go, ...), those with
// datapaths of their own in files by what their packets are of: a connection, a flood, a crowd of flows,
// or what is rare. What no program does, but could (-leads), is in leads.go and files beside it.
package main

import (
	"flag"
	"fmt"
	"os"
	"runtime"

	"replypath/bpf/internal/rig"
)

// group holds cases that need datapaths of their own.
type group interface {
	cases() ([]testCase, error)
	close() error
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// options are those of the command line.
type options struct {
	repeat, rounds uint
	cpu            int
	only           string
	crowd, leads   bool
	scaled         bool
	output         string
}

func parseOptions() *options {
	var o options
	flag.UintVar(&o.repeat, "repeat", 1_000_000, "runs of a program in one round")
	flag.UintVar(&o.rounds, "rounds", 9, "rounds, of which the median counts")
	flag.IntVar(&o.cpu, "cpu", runtime.NumCPU()-1, "the CPU to measure on")
	flag.StringVar(&o.only, "run", "", "only cases whose name matches this regular expression")
	flag.BoolVar(&o.crowd, "crowd", false, "random flows of a million as well, which takes a minute and 600 MiB")
	flag.BoolVar(&o.leads, "leads", false, "lookups in the kernel's maps and counters that CPUs share as well, which takes 1.5 GiB; two CPUs")
	flag.BoolVar(&o.scaled, "scaled", false, "raise the bounds by as much as this machine is slower than the one that they are from")
	flag.StringVar(&o.output, "json", "", "write the results to this file as well")
	flag.Parse()
	return &o
}

// makers are those of the groups that take part.
func (o *options) makers() []func(*bench) (group, error) {
	makers := []func(*bench) (group, error){newConnection, newRare, newFlood, newSpoof}
	if o.crowd {
		makers = append(makers, newCrowd)
	}
	if o.leads {
		makers = append(makers, newLeads)
	}
	return makers
}

func run() error {
	o := parseOptions()
	host, err := rig.NewHost(devices)
	if err != nil {
		return err
	}
	defer host.Close()
	return host.Do(func() error {
		if err := rig.Pin(o.cpu); err != nil {
			return err
		}
		bench, err := newBench(host)
		if err != nil {
			return err
		}
		defer bench.close()
		return bench.run(o)
	})
}

// run measures what was asked for, and reports it. It returns an error where a bound is exceeded.
func (b *bench) run(o *options) error {
	all, closeGroups, err := b.allCases(o.makers())
	defer closeGroups()
	if err != nil {
		return err
	}
	cases, err := matching(all, o.only)
	if err != nil {
		return err
	}
	reference, closeReference, err := b.reference()
	if err != nil {
		return err
	}
	defer closeReference()
	measurements, err := begin(append([]testCase{reference}, cases...))
	if err != nil {
		return err
	}
	if err := measure(measurements, uint32(o.repeat), int(o.rounds)); err != nil {
		return err
	}
	report := report{
		Machine: describeMachine(), Repeat: o.repeat, Rounds: o.rounds, Reference: referenceCost, Results: results(measurements),
	}
	if o.scaled {
		if err := report.scaleAgain(measurements); err != nil {
			return err
		}
	}
	if err := checkAgain(measurements); err != nil {
		return err
	}
	if report.Programs, err = b.sizes(); err != nil {
		return err
	}
	if err := report.write(os.Stdout, o.output); err != nil {
		return err
	}
	return report.exceeded()
}

// allCases are those of the bench and of further groups, which close gives up.
func (b *bench) allCases(makers []func(*bench) (group, error)) (all []testCase, close func(), err error) {
	var groups []group
	close = func() {
		for _, g := range groups {
			g.close()
		}
	}
	all = b.cases()
	for _, maker := range makers {
		g, err := maker(b)
		if err != nil {
			return nil, close, err
		}
		groups = append(groups, g)
		more, err := g.cases()
		if err != nil {
			return nil, close, err
		}
		all = append(all, more...)
	}
	return all, close, nil
}
