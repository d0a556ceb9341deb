// Command kernels runs tests on other kernels than the machine's own: each
// kernel of a list boots in a virtual machine, with the tests in its initial
// file system, and powers off when they are through.
//
// The kernels are Debian's. They are fetched once, into a cache outside of the
// source tree, by apt, which checks their signatures; the machine's own package
// lists are left alone.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"os"
	"os/signal"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// options are those of the command line.
type options struct {
	cache   string
	results string
	suites  string
	run     string
	update  bool
	verbose bool
}

func main() {
	log.SetFlags(0)
	log.SetPrefix("kernels: ")
	var o options
	flag.StringVar(&o.cache, "cache", "", "directory of kernels (default $XDG_CACHE_HOME/replypath/kernels)")
	flag.StringVar(&o.results, "results", "build/kernels", "directory of logs")
	flag.StringVar(&o.suites, "suites", "", "names of the suites to run, with spaces between them (default all)")
	flag.StringVar(&o.run, "run", "", "regular expression of tests, in the place of a suite's own")
	flag.BoolVar(&o.update, "update", false, "fetch what Debian has by now")
	flag.BoolVar(&o.verbose, "v", false, "show what the tests say")
	flag.Usage = usage
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM, unix.SIGHUP)
	ok, err := o.main(ctx, flag.Args())
	stop()
	if err != nil {
		log.Fatal(err)
	}
	if !ok {
		os.Exit(1)
	}
}

func usage() {
	fmt.Fprintf(flag.CommandLine.Output(), "usage: kernels [flags] VERSION...\n\nVersions: %s.\nSuites: %s.\n\n",
		strings.Join(versions(), ", "), strings.Join(suiteNames(), ", "))
	flag.PrintDefaults()
}

// main runs the suites on every kernel, one after the other, and tells whether
// all passed.
func (o *options) main(ctx context.Context, kernels []string) (bool, error) {
	if len(kernels) == 0 {
		return false, errors.New("name kernels, such as " + strings.Join(versions(), " "))
	}
	suites, err := chooseSuites(o.suites, o.run)
	if err != nil {
		return false, err
	}
	c, err := openCache(o.cache, o.update)
	if err != nil {
		return false, err
	}
	work, err := os.MkdirTemp("", "replypath-kernels-")
	if err != nil {
		return false, err
	}
	defer os.RemoveAll(work)
	payload, err := buildPayload(ctx, work, suites)
	if err != nil {
		return false, err
	}
	r := newReport(suites)
	for _, version := range kernels {
		outcome, err := o.runOn(ctx, c, version, payload, suites, work)
		if err != nil {
			return false, fmt.Errorf("linux %s: %w", version, err)
		}
		r.add(outcome)
		if ctx.Err() != nil {
			break
		}
	}
	return r.print(os.Stdout, o.results), nil
}

// runOn runs the suites on one kernel.
func (o *options) runOn(ctx context.Context, c *cache, version, payload string, suites []suite, work string) (*outcome, error) {
	k, err := c.kernel(ctx, version)
	if err != nil {
		return nil, err
	}
	qemu, err := c.emulator(ctx)
	if err != nil {
		return nil, err
	}
	initrd := filepath.Join(work, "initrd")
	if err := concatenate(initrd, k.base(), payload); err != nil {
		return nil, err
	}
	fmt.Printf("== Linux %s (%s)\n", version, k.release)
	dir := filepath.Join(o.results, version)
	if err := os.RemoveAll(dir); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	m := machine{qemu: qemu, kernel: k, initrd: initrd, results: dir, verbose: o.verbose, timeout: totalTime(suites)}
	end, err := m.run(ctx)
	if err != nil {
		return nil, err
	}
	return readOutcome(version, k.release, dir, suites, end)
}
