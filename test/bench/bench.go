// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"replypath/test/bench/contender"
	"replypath/test/bench/load"
	"replypath/test/bench/report"
)

// Files in the directory of results.
const (
	resultsFile  = "results.json"
	programsFile = "bpf.json" // of make bench-bpf
)

// bench measures everything, prints tables and writes results.json. A measurement that came to nothing is an
// error, after all that, and so is a run that was interrupted.
func bench(ctx context.Context, o options) error {
	results, err := measure(ctx, o)
	if err != nil {
		return err
	}
	if len(results.Workloads) == 0 {
		return errors.Join(errors.New("interrupted before anything was measured"), results.Failed())
	}
	if err := results.Write(filepath.Join(o.output, resultsFile)); err != nil {
		return err
	}
	if err := results.Print(os.Stdout); err != nil {
		return err
	}
	fmt.Printf("\n%s has the raw data\n", filepath.Join(o.output, resultsFile))
	if err := results.Failed(); err != nil || results.Method.Complete {
		return err
	}
	return errors.New("interrupted: what was measured until then is there")
}

// measure carries out a run.
func measure(ctx context.Context, o options) (*report.Results, error) {
	contenders, absentContenders, err := o.chosenContenders()
	if err != nil {
		return nil, err
	}
	workloads, absentWorkloads, err := o.chosenWorkloads()
	if err != nil {
		return nil, err
	}
	begun := time.Now()
	results := &report.Results{Machine: report.DescribeMachine(), Figures: []report.Figure{}}
	if results.Programs, err = readPrograms(o.output); err != nil {
		return nil, err
	}
	if m := results.Machine; m.Load > float64(m.CPUs) {
		fmt.Fprintf(os.Stderr, "bench: the machine has other work (load %.1f): figures are worth little\n", m.Load)
	}
	p := newPlan(workloads, contenders, o)
	if len(p.slots) == 0 {
		return nil, fmt.Errorf("none of these contenders can do the work: %v", p.absent)
	}
	bar := newProgress(os.Stderr, p)
	r := newRunner(p, o, bar)
	defer bar.done()
	if err := r.run(ctx); err != nil {
		return nil, err
	}
	results.Workloads = r.summaries(workloads, contenders)
	results.Judge()
	results.Failures = r.failures
	results.Absent = absentees(absentContenders, absentWorkloads, p.absent)
	if ctx.Err() == nil && !o.noFigures {
		var failures []report.Failure
		results.Figures, failures = measureFigures(ctx, o, bar)
		results.Failures = append(results.Failures, failures...)
	}
	results.Method = report.Method{
		Begun: begun.UTC().Truncate(time.Second), Took: time.Since(begun).Seconds(), Quick: o.quick, Commit: o.commit,
		Rounds: min(r.rounds, p.rounds), Further: max(r.rounds-p.rounds, 0), Shuffled: true,
		Seconds: o.duration.Seconds(), WarmUp: o.warmUp().Seconds(), Turn: min(turnTime, o.duration).Seconds(),
		Complete: ctx.Err() == nil,
	}
	return results, nil
}

// summaries puts together what was measured of each workload.
func (r *runner) summaries(workloads []*load.Workload, contenders []*contender.Contender) []report.Workload {
	var order []string
	for _, c := range contenders {
		order = append(order, c.Name)
	}
	all := []report.Workload{}
	for _, w := range workloads {
		if len(r.values[w.Name]) == 0 {
			continue
		}
		summary := report.Workload{Name: w.Name, Unit: w.Unit, About: w.About}
		summary.Summarize(order, r.values[w.Name])
		all = append(all, summary)
	}
	return all
}

// absentees lists what was not measured, by name.
func absentees(lists ...map[string]string) []report.Absent {
	all := []report.Absent{}
	for _, list := range lists {
		for name, reason := range list {
			all = append(all, report.Absent{Name: name, Reason: reason})
		}
	}
	slices.SortFunc(all, func(a, b report.Absent) int { return strings.Compare(a.Name, b.Name) })
	return all
}

// readPrograms returns what make bench-bpf has left, or nil.
func readPrograms(dir string) (json.RawMessage, error) {
	data, err := os.ReadFile(filepath.Join(dir, programsFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the results of make bench-bpf: %w", err)
	}
	return data, nil
}

// writePage makes the page of documentation from the results of an earlier run.
func writePage(o options) error {
	results, err := report.Read(filepath.Join(o.output, resultsFile))
	if err != nil {
		return err
	}
	results.Renew()
	var about []report.About
	for _, c := range contender.All() {
		about = append(about, report.About{Name: c.Name, About: c.About})
	}
	dir := strings.ToLower(strings.TrimSuffix(filepath.Base(o.page), filepath.Ext(o.page)))
	var text bytes.Buffer
	if err := results.Page(&text, about, dir); err != nil {
		return err
	}
	if err := os.WriteFile(o.page, text.Bytes(), 0o644); err != nil {
		return fmt.Errorf("write the page: %w", err)
	}
	return keepRawData(filepath.Join(o.output, resultsFile), filepath.Join(filepath.Dir(o.page), dir, resultsFile+".gz"))
}

// keepRawData compresses the results that a page was made from, to be kept beside it.
func keepRawData(from, to string) error {
	data, err := os.ReadFile(from)
	if err != nil {
		return fmt.Errorf("read the raw data: %w", err)
	}
	var compressed bytes.Buffer
	w := gzip.NewWriter(&compressed)
	if _, err := w.Write(data); err != nil {
		return fmt.Errorf("compress the raw data: %w", err)
	}
	if err := w.Close(); err != nil {
		return fmt.Errorf("compress the raw data: %w", err)
	}
	if err := os.WriteFile(to, compressed.Bytes(), 0o644); err != nil {
		return fmt.Errorf("write the raw data: %w", err)
	}
	return nil
}
