// SPDX-License-Identifier: Apache-2.0

package report

import (
	"bytes"
	"encoding/json"
	"math"
	"path/filepath"
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

// TestRenew derives the same once more, whatever stood there.
func TestRenew(t *testing.T) {
	r, want := sampleResults(), sampleResults()
	r.Workloads[0].Noise, r.Workloads[0].Contenders[0].Ratio, r.Bounds = 7, 7, nil
	r.Renew()
	await.Same(t, "renewed", want, r)
}

func TestDifference(t *testing.T) {
	for ratio, want := range map[float64]string{1.019: "none", 0.981: "none", 1.03: "better", 0.97: "worse"} {
		if got := difference(ratio, 0.02, leastRounds); got != want {
			t.Errorf("%v: %s, want %s", ratio, got, want)
		}
		if got := difference(ratio, 0.02, leastRounds-1); got != "few rounds" {
			t.Errorf("%v of %d rounds: %s", ratio, leastRounds-1, got)
		}
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
	if len(r.Bounds) != len(bounds)+1 {
		t.Errorf("%d bounds, want %d: %+v", len(r.Bounds), len(bounds)+1, r.Bounds)
	}
	for _, b := range r.Bounds {
		verdict, measured := want[b.Name]
		if !measured {
			verdict = "not measured"
		}
		if b.Verdict != verdict {
			t.Errorf("%s: %s at %v, want %q", b.Name, b.Verdict, b.Ratio, verdict)
		}
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
		if got := c.judge("", 0.98); got.Verdict != c.want {
			t.Errorf("%+v of 0.98: %s, want %s", c.comparison, got.Verdict, c.want)
		}
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

func TestWriteAndRead(t *testing.T) {
	file := filepath.Join(t.TempDir(), "new", "results.json")
	r := sampleResults()
	await.Must(t, r.Write(file))
	got, err := Read(file)
	await.Must(t, err)
	if got.Workload("udp-echo-64").Contender(ours).Ratio != r.Workload("udp-echo-64").Contender(ours).Ratio {
		t.Errorf("read %+v", got.Workloads)
	}
	if _, err := Read(filepath.Join(t.TempDir(), "none")); err == nil {
		t.Error("a file that is not there is no error")
	}
}

func TestPrint(t *testing.T) {
	var text bytes.Buffer
	await.Must(t, sampleResults().Print(&text))
	for _, want := range []string{
		"Linux 6.18, a CPU, 2 CPUs", "udp-echo-64 (1/s): echoes; noise 2.0 %", "replypath  6       98.0    97.0  192  0.970",
		"0.960-0.980", "resident memory  31.0   30.0  35.0  40.0", "vrf: no kernel for it",
	} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("no %q in\n%s", want, text.String())
		}
	}
}

func TestPage(t *testing.T) {
	var text bytes.Buffer
	r := sampleResults()
	r.Figures = append(r.Figures, NewFigure("tcp-rr, replypath: runs of programs", "runs", 3),
		NewFigure("tcp-rr, replypath: time in the programs", "ns", 380),
		NewFigure("tcp-rr, replypath: the programs' part of all the time", "%", 2.11))
	await.Must(t, r.Page(&text, []About{{"static", "the limit"}}, "data"))
	for _, want := range []string{
		"measured it on one machine on 2026-11-20", "does about them: mds: Vulnerable\n",
		"- `static`: the limit\n\nNot measured:\n\n- `vrf`: no kernel for it\n",
		"### One at a time\n\n- `udp-echo-64`: echoes\n\n| | udp-echo-64 |\n|---|---|\n",
		"| `static` | 100 1/s ±2.0% |\n", "| `replypath` | 0.970 ±2.0% |\n", "| `replypath` / `iprule-2` | 1.021 |\n",
		"| udp-echo-64: replypath / static | 0.980 | 0.970 | 2.0 % | noise |", "| ingress pass | 1 | 12.3 | 12.3 |",
		"1 of 1 paths that have an aim meet the aim.", "takes 10 ns.\nThe reference takes 1.230 times as much here",
		"(data/results.json.gz)", "| resident memory | 31.0 | 30.0 | 35.0 | 40.0 | MiB | met |",
		"| tcp-rr | replypath | 3 | 380 | 2.11 |\n", "- tcp-rr, connmark: broken",
		"- Linux 6.18, a CPU, 2 CPUs",
	} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("no %q in\n%s", want, text.String())
		}
	}
	if strings.Contains(text.String(), "misses its aim") || strings.Contains(text.String(), "time in the programs") {
		t.Errorf("no aim is missed, and a part is no other figure:\n%s", text.String())
	}
}

// TestTables: what belongs together is in one table, what has no kind in the last, and what nobody measured in none.
func TestTables(t *testing.T) {
	few := Workload{Name: "tcp-crr", Unit: "1/s"}
	few.Summarize([]string{base, ours, strong}, map[string][]Value{base: rounds(100), ours: rounds(90), strong: rounds(80)})
	r := &Results{Workloads: []Workload{{Name: "new", Contenders: few.Contenders}, few, *sample(), {Name: "tcp-rr"}}}
	tables := r.tables()
	if len(tables) != 2 || tables[0].Name != "One at a time" || tables[1].Name != "Others" {
		t.Fatalf("tables: %+v", tables)
	}
	await.Same(t, "rows", [][]string{
		{"`static`", "100 1/s ±2.0%", "(100 1/s ±0.0%)"},
		{"`iprule-2`", "0.950 ±2.0%", "-"},
		{"`replypath`", "0.970 ±2.0%", "(0.900 ±0.0%)"},
		{"`replypath-strong`", "-", "(0.800 ±0.0%)"},
		{"`replypath` / `iprule-2`", "1.021", "-"},
		{"`replypath-strong` / `iprule-2`", "-", "-"},
	}, tables[0].Rows)
}

func TestMissing(t *testing.T) {
	r := &Results{Absent: []Absent{
		{"a: x", "no room"}, {"b: x", "no room"}, {"c", "no kernel"}, {"d: x", "no room"}, {"e: x", "no room"},
	}}
	await.Same(t, "missing", []string{"`x` in 4 workloads: no room", "`c`: no kernel"}, r.Missing())
}

// TestPaths: paths of one kind are one row, and those that miss an aim have a row for both versions of IP.
func TestPaths(t *testing.T) {
	p := &programs{Reference: 10, Results: []programCase{
		{Name: "reference: lookups", Median: 20},
		{Name: "egress redirect: tcp, ipv4", Median: 69, Aim: 35},
		{Name: "egress redirect: udp, ipv4", Median: 71, Aim: 35},
		{Name: "egress redirect: udp, ipv6", Median: 72, Aim: 35},
	}}
	await.Same(t, "spans", []*span{{"reference", 1, 20, 20}, {"egress redirect", 3, 69, 72}}, p.Spans())
	await.Same(t, "missed", []*missedAim{{"egress redirect: udp", "71.0", "72.0", "70.0"}}, p.Missed())
	if p.Aims() != 3 || p.Met() != 1 {
		t.Errorf("%d of %d met, want 1 of 3", p.Met(), p.Aims())
	}
}

func TestNumber(t *testing.T) {
	for v, want := range map[float64]string{0: "0", 123456.7: "123457", 98: "98.0", 3.14159: "3.14", 0.01234: "0.0123"} {
		if got := number(v); got != want {
			t.Errorf("%v is shown as %s, want %s", v, got, want)
		}
	}
}

func TestFailed(t *testing.T) {
	if err := (&Results{}).Failed(); err != nil {
		t.Error(err)
	}
	err := sampleResults().Failed()
	if err == nil || err.Error() != "round 2, tcp-rr, connmark: broken" {
		t.Error(err)
	}
}

func TestDescribeMachine(t *testing.T) {
	m := DescribeMachine()
	if m.Kernel == "" || m.CPUs < 1 || m.Memory == 0 {
		t.Errorf("%+v", m)
	}
}
