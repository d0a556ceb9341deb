// SPDX-License-Identifier: Apache-2.0

// Command bench measures what the datapath costs a packet: each case is run by BPF_PROG_TEST_RUN next to an empty
// program in the same round, and the median of the differences is held against a bound. It needs root.
//
// The cases are in files by concern: what most packets do (common.go), what the host originates, floods, and a crowd of
// flows. The end of the process closes what it opens.
package main

import (
	"flag"
	"fmt"
	"os"
	"regexp"
	"runtime"

	"replypath/bpf/internal/rig"
	benchmarks "replypath/test/bench/report"
)

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
	crowd, scaled  bool
	output         string
}

func parseOptions() *options {
	var o options
	flag.UintVar(&o.repeat, "repeat", 1_000_000, "runs of a program in one round")
	flag.UintVar(&o.rounds, "rounds", 9, "rounds, of which the median counts")
	flag.IntVar(&o.cpu, "cpu", runtime.NumCPU()-1, "the CPU to measure on")
	flag.StringVar(&o.only, "run", "", "only cases whose name matches this regular expression")
	flag.BoolVar(&o.crowd, "crowd", false, "random flows of a million as well, which takes a minute and 600 MiB")
	flag.BoolVar(&o.scaled, "scaled", false, "raise the bounds by as much as this machine is slower than the one that they are from")
	flag.StringVar(&o.output, "json", "", "write the results to this file as well")
	flag.Parse()
	return &o
}

func run() error {
	o := parseOptions()
	host, err := rig.NewHost(devices)
	if err != nil {
		return err
	}
	return host.Do(func() error {
		if err := rig.Pin(o.cpu); err != nil {
			return err
		}
		return o.measure(host)
	})
}

// measure measures what was asked for, and reports it. It returns an error where a bound is exceeded.
func (o *options) measure(host *rig.Host) error {
	benches, err := newBenches(host, o.crowd)
	if err != nil {
		return err
	}
	reference, err := benches[0].reference()
	if err != nil {
		return err
	}
	cases, err := matching(benches, o.only)
	if err != nil {
		return err
	}
	measurements, err := begin(append([]*testCase{reference}, cases...))
	if err != nil {
		return err
	}
	if err := measure(measurements, uint32(o.repeat), int(o.rounds)); err != nil {
		return err
	}
	report := report{
		Machine: benchmarks.DescribeMachine(), Repeat: o.repeat, Rounds: o.rounds, Reference: referenceCost, Results: results(measurements),
	}
	if o.scaled {
		if err := report.scaleAgain(measurements); err != nil {
			return err
		}
	}
	for _, m := range measurements { // entries may have become idle
		if err := m.checkVerdict(1); err != nil {
			return fmt.Errorf("after all runs: %w", err)
		}
	}
	if report.Programs, err = benches[0].sizes(); err != nil {
		return err
	}
	if err := report.write(os.Stdout, o.output); err != nil {
		return err
	}
	return report.exceeded()
}

// newBenches have datapaths of their own each, where the packets of one must not change what others find.
func newBenches(host *rig.Host, withCrowd bool) (benches []*bench, err error) {
	empty, err := emptyProgram()
	if err != nil {
		return nil, err
	}
	groups := []struct {
		flows uint32
		add   func(*bench, endpoints)
	}{
		{flows, (*bench).common}, {flows, (*bench).originated}, {flows, (*bench).floods}, {2 * crowdSize, (*bench).crowd},
	}
	if !withCrowd {
		groups = groups[:len(groups)-1]
	}
	for _, group := range groups {
		b := &bench{host: host, empty: empty, entered: make(map[entry]bool)}
		benches = append(benches, b)
		if b.datapath, err = rig.Load(rig.Options{Flows: group.flows, Seeds: &rig.KnownSeeds}); err != nil {
			return nil, err
		}
		if err := b.fill(); err != nil {
			return nil, err
		}
		for _, e := range []endpoints{v4, v6} {
			group.add(b, e)
		}
		if b.err != nil {
			return nil, b.err
		}
	}
	return benches, nil
}

// matching are the cases whose name matches.
func matching(benches []*bench, pattern string) (chosen []*testCase, err error) {
	match, err := regexp.Compile(pattern)
	if err != nil {
		return nil, fmt.Errorf("read -run: %w", err)
	}
	for _, b := range benches {
		for _, c := range b.cases {
			if match.MatchString(c.name) {
				chosen = append(chosen, c)
			}
		}
	}
	return chosen, nil
}
