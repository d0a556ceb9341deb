// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"replypath/test/await"
	"replypath/test/bench/contender"
	"replypath/test/product"
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

// TestWrongWay has answers leave by another interface than the contender's: its figure would be that of something else.
func TestWrongWay(t *testing.T) {
	nothing := await.Must1[[]*contender.Contender](t)(contender.Named("none"))[0]
	enforcing := *nothing
	enforcing.Way = contender.ByEth1
	o := options{rounds: 1, duration: 500 * time.Millisecond, workloads: "udp-echo-64"}
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

func TestMain(m *testing.M) { product.Main(m) }
