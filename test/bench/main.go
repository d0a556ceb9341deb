// SPDX-License-Identifier: Apache-2.0

// Command bench measures what it costs to have a host's answers leave by the interface that was asked: replypath beside
// a static route, `ip rule` and connection marks, with the same work, in network namespaces of its own. It needs root
// and the packages of packages.txt, and leaves nothing behind.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"

	"golang.org/x/sys/unix"

	"replypath/test/product"
)

func main() {
	o := parseOptions()
	if o.page != "" {
		exit(writePage(o))
	}
	product.Sandboxed(func() int {
		ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM, unix.SIGHUP)
		defer stop()
		return code(bench(ctx, o))
	})
}

func exit(err error) { os.Exit(code(err)) }

// code prints an error and returns the exit code.
func code(err error) int {
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		return 1
	}
	return 0
}

func parseOptions() options {
	var o options
	var quick bool
	flag.BoolVar(&quick, "quick", false, "the first workloads only, in less than five minutes")
	flag.IntVar(&o.rounds, "rounds", usualRounds, "rounds, in each of which every contender has its turn")
	flag.IntVar(&o.further, "further", 5, "rounds after these, of what bounds compare only")
	flag.DurationVar(&o.duration, "time", longTime, "how long each contender works in a round")
	flag.DurationVar(&o.budget, "budget", 0, "begin no round that would end later than this; 0 is no bound")
	flag.StringVar(&o.contenders, "contenders", "", "names of contenders, with spaces between them (default all)")
	flag.StringVar(&o.workloads, "workloads", "", "names of workloads, with spaces between them (default all)")
	flag.BoolVar(&o.noFigures, "no-figures", false, "leave out memory, times to start and the like")
	flag.StringVar(&o.output, "output", "build/bench", "directory of results.json, and of bpf.json of make bench-bpf")
	flag.StringVar(&o.page, "page", "", "measure nothing: write the last results as a page to this file")
	flag.StringVar(&o.commit, "commit", "", "what of replypath's source is measured, for the page")
	flag.Parse()
	if quick {
		o.shorten()
	}
	return o
}
