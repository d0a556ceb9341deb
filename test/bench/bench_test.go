// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"replypath/test/await"
	"replypath/test/bench/contender"
	"replypath/test/bench/report"
)

// TestTinyRun measures two contenders with two workloads, and reads what that leaves
// as somebody does who only knows their documented fields.
func TestTinyRun(t *testing.T) {
	dir := t.TempDir()
	o := options{
		rounds: 2, duration: 200 * time.Millisecond, output: dir, noFigures: true,
		contenders: "static replypath", workloads: "udp-echo-64 tcp-rr",
	}
	await.Must(t, bench(t.Context(), o))

	var results struct {
		Machine   *struct{ Kernel string }
		Workloads []struct {
			Name, Unit string
			Contenders []struct {
				Name                    string
				Median, Min, Max, Ratio float64
			}
		}
	}
	text := await.Must1[[]byte](t)(os.ReadFile(filepath.Join(dir, resultsFile)))
	await.Must(t, json.Unmarshal(text, &results))
	if results.Machine == nil || results.Machine.Kernel == "" {
		t.Error("no machine is described")
	}
	if len(results.Workloads) != 2 {
		t.Fatalf("%d workloads, want 2", len(results.Workloads))
	}
	for _, w := range results.Workloads {
		if len(w.Contenders) != 2 || w.Unit == "" {
			t.Fatalf("%s: %+v", w.Name, w)
		}
		for _, c := range w.Contenders {
			if c.Min <= 0 || c.Median < c.Min || c.Max < c.Median || c.Ratio <= 0 {
				t.Errorf("%s, %s: %+v", w.Name, c.Name, c)
			}
		}
		if static := w.Contenders[0]; static.Name != "static" || static.Ratio != 1 {
			t.Errorf("%s: the first is %+v, not static at 1", w.Name, static)
		}
	}
	wantNothingLeft(t)
}

// pins returns what daemons have pinned.
func pins(t *testing.T) []string {
	t.Helper()
	return await.Must1[[]string](t)(filepath.Glob("/sys/fs/bpf/replypath-bench-*"))
}

// wantNothingLeft looks for pins; namespaces end with the process in any case.
func wantNothingLeft(t *testing.T) {
	t.Helper()
	if left := pins(t); len(left) > 0 {
		t.Errorf("%s are left behind", left)
	}
}

// TestNothingToMeasure names what cannot do which work, where that leaves nothing.
func TestNothingToMeasure(t *testing.T) {
	o := options{rounds: 1, duration: time.Second, output: t.TempDir(), contenders: "constants", workloads: "forward"}
	if err := bench(t.Context(), o); err == nil || !strings.Contains(err.Error(), "forward: constants") {
		t.Errorf("constants are to forward: %v", err)
	}
}

// TestInterruption ends a run in its first round: there is nothing to report then, and nothing is left.
func TestInterruption(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	o := options{
		rounds: 1, duration: time.Minute, output: t.TempDir(), noFigures: true,
		contenders: "replypath", workloads: "udp-echo-64",
	}
	ended := make(chan error, 1)
	go func() { ended <- bench(ctx, o) }()
	await.Eventually(t, "replypath is at work", func() error {
		if len(pins(t)) == 0 {
			return errors.New("nothing is pinned")
		}
		return nil
	})
	cancel()
	select {
	case err := <-ended:
		if err == nil || !strings.Contains(err.Error(), "interrupted before anything was measured") {
			t.Errorf("the run ended with %v", err)
		}
	case <-time.After(o.duration):
		t.Fatal("the run goes on")
	}
	wantNothingLeft(t)
}

// TestWrongWay has answers leave by another interface than the contender's: its figure would be that of something else.
func TestWrongWay(t *testing.T) {
	nothing := await.Must1[[]*contender.Contender](t)(contender.Named("none"))[0]
	enforcing := *nothing
	enforcing.Way = contender.ByEth1
	o := options{rounds: 1, duration: 100 * time.Millisecond, workloads: "udp-echo-64"}
	workloads, _, err := o.chosenWorkloads()
	await.Must(t, err)
	p := newPlan(workloads, []*contender.Contender{nothing, &enforcing}, o)
	r := newRunner(p, o, newProgress(os.Stderr, p))
	if _, err := r.measure(t.Context(), p.slots[0]); err != nil {
		t.Errorf("answers by eth0, expected there: %v", err)
	}
	_, err = r.measure(t.Context(), p.slots[1])
	if err == nil || !strings.Contains(err.Error(), "by the other interface") {
		t.Errorf("answers by eth0, expected by eth1: %v", err)
	}
}

// TestFailures has a measurement that comes to nothing noted, and the others go on.
func TestFailures(t *testing.T) {
	workloads, _, err := (&options{workloads: "udp-echo-64"}).chosenWorkloads()
	await.Must(t, err)
	contenders := await.Must1[[]*contender.Contender](t)(contender.Named("static"))
	p := newPlan(workloads, contenders, options{rounds: 1})
	r := newRunner(p, options{}, newProgress(os.Stderr, p))
	r.note(p.slots[0], report.Value{}, errors.New("broken"))
	r.note(p.slots[1], report.Value{Value: 5}, nil)
	if len(r.failures) != 1 || r.failures[0].Contender != "static" {
		t.Errorf("failures: %+v", r.failures)
	}
	if got := r.values["udp-echo-64"][report.Again]; len(got) != 1 || got[0].Value != 5 {
		t.Errorf("values: %+v", got)
	}
	if summaries := r.summaries(workloads, contenders); len(summaries) != 1 || len(summaries[0].Contenders) != 0 {
		t.Errorf("a contender without a value is shown: %+v", summaries)
	}
}
