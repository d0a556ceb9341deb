// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"replypath/test/evidence/promise"
)

const (
	module   = "replypath"
	product  = module + "/test/product" // runs the program
	programs = module + "/bpf"          // computes for a minute, and judges no pause
)

// slow are packages whose few tests take long, the longest first: they begin before all others.
var slow = []string{module + "/test/fleet", module + "/test/floods", module + "/test/managers", module + "/test/soak"}

// modules have tests of their own and are built with other libraries. Only a full run builds them.
var modules = []string{"deploy/helm"}

// job is one run of `go test`.
type job struct {
	part     string   // tells it from another job of the same package, else empty
	dir      string   // of a module of its own
	packages []string // import paths
	tests    []string // those that are run, all where it is empty
	skip     []string // those that are not
	when     when
}

// when is what a job runs beside.
type when int

const (
	inLane   when = iota
	before        // it computes all the time: pauses are judged in what follows
	anywhere      // it takes what the others leave of the processors, from the first to the last
)

// jobs are those that take longest first.
func (o *options) jobs(ctx context.Context) ([]*job, error) {
	beds, others, err := packages(ctx)
	if err != nil {
		return nil, err
	}
	groups, err := promise.Read(o.promises)
	if err != nil {
		return nil, err
	}
	quick := make(map[string][]string)
	for _, t := range promise.Quick(groups) {
		quick[module+"/"+t.Package] = append(quick[module+"/"+t.Package], t.Name)
	}
	var jobs []*job
	for _, pkg := range beds {
		if o.quick {
			jobs = append(jobs, parts(pkg, whole(quick[pkg]))...)
		} else {
			jobs = append(jobs, &job{packages: []string{pkg}})
		}
	}
	slices.SortStableFunc(jobs, func(a, b *job) int {
		x, y := a.packages[0], b.packages[0]
		return cmp.Or(cmp.Compare(turn(x), turn(y)), cmp.Compare(len(quick[y]), len(quick[x])))
	})
	others = slices.DeleteFunc(others, func(pkg string) bool { return pkg == programs })
	jobs = append(jobs, &job{packages: []string{programs}, when: anywhere}, &job{packages: others, when: before})
	if o.quick {
		return jobs, nil
	}
	for _, dir := range modules {
		jobs = append(jobs, &job{dir: dir, packages: []string{"./..."}})
	}
	if !o.rest {
		return jobs, nil
	}
	return o.leaveOut(jobs)
}

// turn is the place of a package among those that begin first, the last one for all others.
func turn(pkg string) int {
	if i := slices.Index(slow, pkg); i >= 0 {
		return i
	}
	return len(slow)
}

// mostTests of a package run one after the other: those of more are dealt out to several jobs.
const mostTests = 40

// parts are the jobs that run these tests of a package, none where there are none.
func parts(pkg string, tests []string) []*job {
	jobs := make([]*job, (len(tests)+mostTests-1)/mostTests)
	for i := range jobs {
		jobs[i] = &job{packages: []string{pkg}}
		if len(jobs) > 1 {
			jobs[i].part = fmt.Sprintf(" %d/%d", i+1, len(jobs))
		}
	}
	top, to := "", -1
	for _, name := range tests { // subtests of one test stay together
		if now, _, _ := strings.Cut(name, "/"); now != top {
			top, to = now, (to+1)%len(jobs)
		}
		jobs[to].tests = append(jobs[to].tests, name)
	}
	return jobs
}

// whole returns the names of the tests without what is below another of them.
func whole(names []string) []string {
	slices.Sort(names)
	var all []string
	for _, name := range names {
		if n := len(all); n == 0 || name != all[n-1] && !strings.HasPrefix(name, all[n-1]+"/") {
			all = append(all, name)
		}
	}
	return all
}

// packages returns those that run the product on networks, and the others that have tests: a quick run takes of the
// former one test of each promise.
func packages(ctx context.Context) (beds, others []string, err error) {
	const format = `{{if or .TestGoFiles .XTestGoFiles}}{{.ImportPath}} {{join .TestImports " "}} {{join .XTestImports " "}}{{end}}`
	list := exec.CommandContext(ctx, "go", "list", "-f", format, "./...")
	list.Stderr = os.Stderr
	text, err := list.Output()
	if err != nil {
		return nil, nil, fmt.Errorf("list packages: %w", err)
	}
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		if slices.Contains(fields[1:], product) && !isProduct(fields[0]) {
			beds = append(beds, fields[0])
		} else {
			others = append(others, fields[0])
		}
	}
	return beds, others, nil
}

// isProduct tells whether the product itself has this package. Most tests of loader start the whole of it.
func isProduct(pkg string) bool {
	layer, _, _ := strings.Cut(below(pkg), "/")
	return slices.Contains([]string{"bpf", "loader", "cmd", "metrics"}, layer) && below(pkg) != "loader"
}

// run runs the tests and tells the report of them. An error says that they could not be run.
func (j *job) run(ctx context.Context, o *options, r *report) error {
	test := exec.CommandContext(ctx, "go", j.arguments(o)...)
	test.Dir = j.dir
	test.WaitDelay = time.Minute
	var stderr bytes.Buffer
	test.Stderr = &stderr
	test.Cancel = func() error { return test.Process.Signal(os.Interrupt) }
	stdout, err := test.StdoutPipe()
	if err != nil {
		return fmt.Errorf("run go test: %w", err)
	}
	if err := test.Start(); err != nil {
		return fmt.Errorf("run go test: %w", err)
	}
	for decoder := json.NewDecoder(stdout); ; {
		var e event
		if err := decoder.Decode(&e); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return errors.Join(fmt.Errorf("read what go test says: %w", err), test.Cancel(), test.Wait())
		}
		e.Package += j.part
		if err := r.take(&e); err != nil {
			return errors.Join(err, test.Cancel(), test.Wait())
		}
	}
	err = test.Wait()
	if err == nil || r.hasFailed(j) { // which the report shows
		return nil
	}
	return fmt.Errorf("go test %s: %w\n%s", strings.Join(j.packages, " "), err, stderr.String())
}

func (j *job) arguments(o *options) []string {
	// make vet looks at the code, and nobody debugs these binaries: both would take a minute of a first run.
	args := []string{"test", "-json", "-count=1", "-vet=off", "-ldflags=-s -w", "-timeout=" + o.timeout.String()}
	if o.quick {
		args = append(args, "-short")
	}
	if j.when == anywhere {
		args = append(args, "-exec=nice -n 5")
	}
	if len(j.tests) > 0 {
		args = append(args, "-run="+pattern(j.tests))
	}
	if len(j.skip) > 0 {
		args = append(args, "-skip=^("+strings.Join(j.skip, "|")+")$")
	}
	return append(args, j.packages...)
}

// pattern matches the tests of these names, and all below them.
func pattern(names []string) string {
	alternatives := make([]string, 0, len(names))
	for _, name := range names {
		alternatives = append(alternatives, "^"+strings.ReplaceAll(name, "/", "$/^")+"$")
	}
	return strings.Join(alternatives, "|")
}

// shownName is the file, below the logs, that says what a quick run has shown in full.
const shownName = "shown"

// leaveOut leaves out of a full run what a quick run has shown in full, which is nothing where it failed.
func (o *options) leaveOut(jobs []*job) ([]*job, error) {
	text, err := os.ReadFile(filepath.Join(o.logs, shownName))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read what the quick run has shown: %w", err)
	}
	shown := make(map[string][]string) // tests by package, none where all are
	for line := range strings.Lines(string(text)) {
		pkg, name, _ := strings.Cut(strings.TrimSpace(line), " ")
		shown[pkg] = append(shown[pkg], name)
	}
	for _, j := range jobs {
		j.packages = slices.DeleteFunc(j.packages, func(pkg string) bool { return slices.Contains(shown[pkg], "") })
		if len(j.packages) == 1 {
			j.skip = shown[j.packages[0]]
		}
	}
	return slices.DeleteFunc(jobs, func(j *job) bool { return len(j.packages) == 0 }), nil
}
