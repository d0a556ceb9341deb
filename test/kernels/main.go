// SPDX-License-Identifier: Apache-2.0

// Command kernels runs tests on other kernels than the machine's own: each kernel of a list boots in a virtual machine,
// with the tests in its initial file system, and powers off when they are through.
//
// The kernels are Debian's. They are fetched once, into a cache outside of the source tree, by apt, which checks their
// signatures; the machine's own package lists are left alone.
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
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// options are those of the command line.
type options struct {
	cache    string
	results  string
	suites   string
	run      string
	short    bool
	parallel int
}

func main() {
	log.SetFlags(0)
	log.SetPrefix("kernels: ")
	var o options
	flag.StringVar(&o.cache, "cache", "", "directory of kernels (default $XDG_CACHE_HOME/replypath/kernels)")
	flag.StringVar(&o.results, "results", "build/kernels", "directory of logs")
	flag.StringVar(&o.suites, "suites", "", "names of the suites to run, with spaces between them, each with the kernels that it is for, as in kinds@6.1,6.12, if not all (default all but bpf, order, restarts and loader)")
	flag.StringVar(&o.run, "run", "", "regular expression of tests, in the place of a suite's own")
	flag.BoolVar(&o.short, "short", false, "leave out what differs little from the rest (go test -short)")
	flag.IntVar(&o.parallel, "parallel", 1, "how many virtual machines run at once")
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

// main runs the suites on every kernel and tells whether all passed.
func (o *options) main(ctx context.Context, kernels []string) (bool, error) {
	if len(kernels) == 0 {
		return false, errors.New("name kernels, such as " + strings.Join(versions(), " "))
	}
	suites, err := chooseSuites(o.suites, o.run)
	if err != nil {
		return false, err
	}
	c, err := openCache(o.cache)
	if err != nil {
		return false, err
	}
	work, err := os.MkdirTemp("", "replypath-kernels-")
	if err != nil {
		return false, err
	}
	defer os.RemoveAll(work)
	machines, err := o.prepare(ctx, c, kernels, suites, work)
	if err != nil {
		return false, err
	}
	outcomes, err := o.runAll(ctx, machines, suites)
	if err != nil {
		return false, err
	}
	r := report{suites: suites, outcomes: outcomes}
	return r.print(os.Stdout, o.results), nil
}

// prepare fetches what is not there yet, and makes a virtual machine of every kernel.
func (o *options) prepare(ctx context.Context, c *cache, kernels []string, suites []suite, work string) ([]*machine, error) {
	bases := make(map[*architecture]*base)
	var machines []*machine
	for _, version := range kernels {
		from, err := find(version)
		if err != nil {
			return nil, fmt.Errorf("linux %s: %w", version, err)
		}
		on := bases[from.machine]
		if on == nil {
			if on, err = newBase(ctx, c, from.machine, suites, work); err != nil {
				return nil, err
			}
			bases[from.machine] = on
		}
		k, err := c.kernel(ctx, from, on.busybox)
		if err != nil {
			return nil, fmt.Errorf("linux %s: %w", version, err)
		}
		list, err := buildRunList(ctx, work, version, suites, o.short)
		if err != nil {
			return nil, err
		}
		initrd := filepath.Join(work, "initrd-"+version)
		if err := concatenate(initrd, k.base(), on.payload, list); err != nil {
			return nil, err
		}
		machines = append(machines, &machine{version: version, kind: from.machine, qemu: on.qemu, kernel: k, initrd: initrd,
			results: filepath.Join(o.results, version)})
	}
	return machines, nil
}

// base is what the virtual machines of an architecture have in common.
type base struct{ qemu, busybox, payload string }

// newBase fetches what is not there yet, and builds the rest.
func newBase(ctx context.Context, c *cache, kind *architecture, suites []suite, work string) (b *base, err error) {
	b = &base{busybox: ownBusybox}
	if b.qemu, err = c.emulator(ctx, kind); err != nil {
		return nil, err
	}
	userland := ""
	if kind.foreign {
		if userland, err = c.userland(ctx, kind); err != nil {
			return nil, err
		}
		b.busybox = filepath.Join(userland, "bin/busybox")
	}
	dir := filepath.Join(work, kind.name)
	if err := os.Mkdir(dir, 0o755); err != nil {
		return nil, err
	}
	b.payload, err = buildPayload(ctx, dir, suites, kind, userland)
	return b, err
}

// runAll runs the suites on every kernel, so many of them at once as is wanted. Once it is given up it begins no other.
func (o *options) runAll(ctx context.Context, machines []*machine, suites []suite) ([]*outcome, error) {
	outcomes := make([]*outcome, len(machines))
	var group errgroup.Group
	group.SetLimit(max(o.parallel, 1))
	for i, m := range machines {
		group.Go(func() (err error) {
			if ctx.Err() != nil {
				return nil
			}
			if outcomes[i], err = m.test(ctx, suitesOn(m.version, suites)); err != nil {
				return fmt.Errorf("linux %s: %w", m.version, err)
			}
			return nil
		})
	}
	err := group.Wait()
	return slices.DeleteFunc(outcomes, func(o *outcome) bool { return o == nil }), err
}
