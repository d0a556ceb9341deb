// SPDX-License-Identifier: Apache-2.0

package report

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"replypath/test/await"
)

// rounds makes values of successive rounds.
func rounds(values ...float64) []Value {
	var all []Value
	for i, v := range values {
		all = append(all, Value{Round: i, Value: v})
	}
	return all
}

// sample is a workload in which everything is known: the ratios of replypath are
// 0.98, 0.96 and 0.97, the noise is 2 %.
func sample() *Workload {
	w := &Workload{Name: "udp-echo-64", Unit: "1/s", About: "echoes"}
	w.Summarize([]string{base, rules, ours, "connmark"}, map[string][]Value{
		base:  rounds(100, 200, 100, 100, 200, 100),
		Again: rounds(102, 196, 98, 102, 196, 98),
		rules: rounds(95, 190, 95, 95, 190, 95),
		ours:  rounds(98, 192, 97, 98, 192, 97),
	})
	return w
}

func near(a, b float64) bool { return math.Abs(a-b) < 1e-9 }

func TestSummarize(t *testing.T) {
	w := sample()
	if len(w.Contenders) != 3 || w.Contenders[0].Name != base || w.Contender("connmark") != nil ||
		w.Contender(Again) != nil {
		t.Fatalf("contenders: %+v", w.Contenders)
	}
	if !near(w.Noise, 0.02) {
		t.Errorf("noise %v, want 0.02", w.Noise)
	}
	c := w.Contender(ours)
	if c.Median != 98 || c.Min != 97 || c.Max != 192 || len(c.Values) != 6 {
		t.Errorf("values: %+v", c)
	}
	if !near(c.Ratio, 0.97) || !near(c.RatioMin, 0.96) || !near(c.RatioMax, 0.98) {
		t.Errorf("ratios: %+v", c)
	}
	if c.RulesRatio == nil || !near(*c.RulesRatio, 97.0/95) {
		t.Errorf("ratio to two rules: %v", c.RulesRatio)
	}
	if static := w.Contender(base); static.Ratio != 1 || static.Difference != "none" {
		t.Errorf("the base itself: %+v", static)
	}
}

func TestJudge(t *testing.T) {
	two := &Workload{Name: twoCores}
	two.Summarize([]string{base, ours}, map[string][]Value{
		base: rounds(200, 200, 200, 200, 200), ours: rounds(180, 180, 180, 180, 180),
	})
	r := &Results{Workloads: []Workload{*sample(), *two}}
	r.Judge()
	want := map[string]string{
		"udp-echo-64: replypath / static":             "noise",  // 0.97 of 0.98, noise 0.02
		"udp-echo-64: replypath / iprule-2":           "met",    // 1.021, noise 0.02
		"gain by the second core: replypath / static": "missed", // 0.9 / 0.97
	}
	await.Same(t, "bounds", len(bounds)+1, len(r.Bounds))
	for _, b := range r.Bounds {
		verdict, measured := want[b.Name]
		if !measured {
			verdict = "not measured"
		}
		await.Same(t, b.Name, verdict, b.Verdict)
	}
	for _, c := range []struct {
		comparison
		want string
	}{
		{comparison{0.99, 0.02, leastRounds}, "noise"},
		{comparison{0.9, 0.02, leastRounds}, "missed"},
		{comparison{1.1, 0.02, leastRounds}, "met"},
		{comparison{1.1, 0.02, leastRounds - 1}, "few rounds"},
		{comparison{}, "not measured"},
	} {
		await.Same(t, fmt.Sprintf("%+v of 0.98", c.comparison), c.want, c.judge("", 0.98).Verdict)
	}
}

// sampleResults has everything that can be in a report.
func sampleResults() *Results {
	mitigations := map[string]string{"meltdown": "Not affected", "mds": "Vulnerable"}
	const programs = `{"repeat": 5, "rounds": 3, "reference_cost": 10, "results": [{"name": "ingress pass", "median": 12.3, "bound": 30, "aim": 10}]}`
	r := &Results{
		Machine:   Machine{Kernel: "6.18", CPU: "a CPU", CPUs: 2, Mitigations: mitigations},
		Method:    Method{Begun: time.Date(2026, 11, 20, 0, 0, 0, 0, time.UTC), Rounds: 6, Seconds: 1.5, Complete: true},
		Workloads: []Workload{*sample()},
		Figures:   []Figure{NewFigure("resident memory", "MiB", 31, 30, 35).Within(40), NewFigure("a time", "s", 2)},
		Programs:  json.RawMessage(programs),
		Absent:    []Absent{{"vrf", "no kernel for it"}},
		Failures:  []Failure{{1, "tcp-rr", "connmark", "broken"}},
	}
	r.Judge()
	return r
}

func TestPage(t *testing.T) {
	var text bytes.Buffer
	r := sampleResults()
	r.Figures = append(r.Figures, NewFigure("tcp-rr, replypath: runs of programs", "runs", 3),
		NewFigure("tcp-rr, replypath: time in the programs", "ns", 380),
		NewFigure("tcp-rr, replypath: the programs' part of all the time", "%", 2.11))
	await.Must(t, r.Page(&text, []About{{"static", "the limit"}}, "data"))
	await.Says(t, "page", text.String(),
		"measured it on one machine on 2026-11-20", "does about them: mds: Vulnerable\n",
		"- `static`: the limit\n\nNot measured:\n\n- `vrf`: no kernel for it\n",
		"### One at a time\n\n- `udp-echo-64`: echoes\n\n| | udp-echo-64 |\n|---|---|\n",
		"| `static` | 100 1/s ±2.0% |\n", "| `replypath` | 0.970 ±2.0% |\n", "| `replypath` / `iprule-2` | 1.021 |\n",
		"| udp-echo-64: replypath / static | 0.980 | 0.970 | 2.0 % | noise |", "| ingress pass | 1 | 12.3 | 12.3 |",
		"1 of 1 paths that have an aim meet the aim.", "takes 10 ns.\nThe reference takes 1.230 times as much here",
		"(data/results.json.gz)", "| resident memory | 31.0 | 30.0 | 35.0 | 40.0 | MiB | met |",
		"| tcp-rr | replypath | 3 | 380 | 2.11 |\n", "- tcp-rr, connmark: broken",
		"- Linux 6.18, a CPU, 2 CPUs",
	)
	if strings.Contains(text.String(), "misses its aim") || strings.Contains(text.String(), "time in the programs") {
		t.Errorf("no aim is missed, and a part is no other figure:\n%s", text.String())
	}
}
