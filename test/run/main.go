// SPDX-License-Identifier: Apache-2.0

// Run runs the tests, some packages side by side, and prints a line for each package as it ends: with -quick each promise
// of test/evidence/promises.yaml once, beside whatever needs no network of its own, else everything. At the end it
// tells what was skipped and why, how long it took, and how many passed, failed and were skipped.
//
// It keeps what the tests print, as `go test -v` prints it, in a file for each package below -logs: make evidence reads
// them.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"replypath/test/await"
	"replypath/test/pace"
)

// options are what the flags say.
type options struct {
	quick    bool
	rest     bool
	promises string
	logs     string
	lanes    int
	timeout  time.Duration
}

func main() {
	var o options
	flag.BoolVar(&o.quick, "quick", false, "run one test of each promise, and whatever needs no network of its own")
	flag.BoolVar(&o.rest, "rest", false, "leave out what a -quick run that has passed has shown in full")
	flag.StringVar(&o.promises, "promises", "test/evidence/promises.yaml", "what is promised, and by which tests it is shown")
	flag.StringVar(&o.logs, "logs", "build/tests", "directory for what the tests print")
	flag.IntVar(&o.lanes, "lanes", 4, "packages that run side by side")
	flag.DurationVar(&o.timeout, "timeout", 40*time.Minute, "how long a package may take")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	defer stop()
	passed, err := o.run(ctx)
	if err != nil {
		fmt.Fprintln(os.Stderr, "run tests:", err)
	}
	if err != nil || !passed {
		os.Exit(1)
	}
}

// run returns whether all tests have passed. An error says that they could not be run.
func (o *options) run(ctx context.Context) (passed bool, err error) {
	jobs, err := o.jobs(ctx)
	if err != nil {
		return false, err
	}
	if err := os.MkdirAll(o.logs, 0o755); err != nil {
		return false, fmt.Errorf("make a directory for logs: %w", err)
	}
	if err := bePatient(); err != nil {
		return false, err
	}
	r := newReport(os.Stdout, o.logs, o.quick)
	run := func(when when) *errgroup.Group {
		lanes := new(errgroup.Group)
		lanes.SetLimit(o.lanes)
		for _, j := range jobs {
			if j.when == when {
				lanes.Go(func() error { return j.run(ctx, o, r) })
			}
		}
		return lanes
	}
	beside := run(anywhere)
	err = run(before).Wait()
	err = errors.Join(err, run(inLane).Wait(), beside.Wait(), ctx.Err())
	passed = r.end(jobs)
	if err == nil && passed && o.quick {
		err = r.noteShown(jobs)
	}
	return passed, err
}

// bePatient has the tests demand and wait for longer times on a machine that takes more than one and a half times as long
// for the same work, and says so; who has set the factor knows better.
func bePatient() error {
	if os.Getenv(await.PatienceVariable) != "" {
		return nil
	}
	var all []float64
	for range 5 {
		times, err := pace.Now()
		if err != nil {
			return err
		}
		all = append(all, times)
	}
	slices.Sort(all)
	factor := strconv.Itoa(int(math.Round(all[len(all)/2])))
	if factor == "1" {
		return nil
	}
	fmt.Printf("This machine takes %.1f times as long as the one that the times of the tests were found on: %s=%s\n",
		all[len(all)/2], await.PatienceVariable, factor)
	return os.Setenv(await.PatienceVariable, factor)
}
