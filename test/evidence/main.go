// SPDX-License-Identifier: Apache-2.0

// Evidence makes build/evidence.md: which test shows what, with what the tests of one run have printed; and docs/EVIDENCE.md, which has
// the first promise of each kind.
package main

//go:generate go run . -promises promises.yaml -summary ../../docs/EVIDENCE.md

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"replypath/test/evidence/promise"
)

const remedy = "run make test-all and make evidence"

// options are what the flags say.
type options struct {
	promises, page string
	summary        string
	kernels        string
	logs           []string
	run            run
	partial        bool
}

func main() {
	o := parseFlags()
	do := generate
	if o.summary != "" {
		do = writeSummary
	}
	if err := do(o); err != nil {
		fmt.Fprintln(os.Stderr, "evidence:", err)
		os.Exit(1)
	}
}

func parseFlags() *options {
	var o options
	log := flag.Bool("log", false, "read the logs named behind the flags, not those of build/tests")
	flag.StringVar(&o.promises, "promises", "test/evidence/promises.yaml", "what is promised, and by which tests it is shown")
	flag.StringVar(&o.page, "page", "build/evidence.md", "the page to write")
	flag.StringVar(&o.summary, "summary", "", "write the first promise of each kind to this page instead")
	flag.StringVar(&o.kernels, "kernels", "build/kernels", "logs of test-kernels, for what this machine's kernel has to skip")
	flag.StringVar(&o.run.Commit, "commit", "", "commit of the run, where its logs do not say it")
	flag.StringVar(&o.run.Kernel, "kernel", "", "kernel of the run, where its logs do not say it")
	flag.StringVar(&o.run.Date, "date", "", "date of the run, where its logs do not say it")
	flag.BoolVar(&o.partial, "partial", false, "show tests that the logs do not have as \"not run\"")
	flag.Parse()
	o.logs = flag.Args()
	if !*log {
		o.logs, _ = filepath.Glob("build/tests/*.log") // the pattern is valid
	}
	return &o
}

// writeSummary reads promises, and writes the page that is committed.
func writeSummary(o *options) error {
	p, err := promise.Read(o.promises)
	if err != nil {
		return err
	}
	text, err := summarize(p)
	if err != nil {
		return err
	}
	if err := os.WriteFile(o.summary, []byte(text), 0o644); err != nil {
		return fmt.Errorf("write summary: %w", err)
	}
	return nil
}

// generate reads promises and logs, and writes the page. An error names each test that failed or did not run.
func generate(o *options) error {
	p, err := promise.Read(o.promises)
	if err != nil {
		return err
	}
	if len(o.logs) == 0 {
		return errors.New("there is no log of a run: " + remedy)
	}
	results := newResults()
	for _, name := range o.logs {
		text, err := os.ReadFile(name)
		if err != nil {
			return fmt.Errorf("read log of tests: %w", err)
		}
		results.read(string(text))
	}
	if results.kernels, err = readKernels(o.kernels, p); err != nil {
		return err
	}
	about := results.about.or(o.run)
	if about.Commit == "" || about.Kernel == "" || about.Date == "" {
		return errors.New("the logs do not say of which run they are: name it by -commit, -kernel and -date")
	}
	if missing := results.missing(p, o.partial); len(missing) > 0 {
		return fmt.Errorf("these tests failed or did not run, so they show nothing:\n  %s\n%s", strings.Join(missing, "\n  "), remedy)
	}
	text, err := render(p, results, about)
	if err != nil {
		return err
	}
	if err := os.WriteFile(o.page, []byte(text), 0o644); err != nil {
		return fmt.Errorf("write page: %w", err)
	}
	return nil
}
