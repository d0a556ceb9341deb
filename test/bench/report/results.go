// SPDX-License-Identifier: Apache-2.0

package report

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// What contenders are compared with.
const (
	base  = "static"
	rules = "iprule-2"
	// Again is the base once more in each round: it shows the noise.
	Again = "static-again"
)

// Results are all that one run has found out, as they stand in results.json.
type Results struct {
	Machine   Machine         `json:"machine"`
	Method    Method          `json:"method"`
	Workloads []Workload      `json:"workloads"`
	Bounds    []BoundResult   `json:"bounds"`
	Figures   []Figure        `json:"figures"`
	Programs  json.RawMessage `json:"programs"` // of make bench-bpf; null without
	Absent    []Absent        `json:"absent"`
	Failures  []Failure       `json:"failures"`
}

// leastRounds is how many rounds it takes for their scatter to say anything.
const leastRounds = 5

// fewRounds is said of what fewer have measured.
const fewRounds = "few rounds"

// Method is how it was measured.
type Method struct {
	Begun time.Time `json:"begun"`
	// Commit is that of the source, "" where it is not known.
	Commit string  `json:"commit,omitempty"`
	Took   float64 `json:"took_seconds"`
	Quick  bool    `json:"quick"`
	Rounds int     `json:"rounds"`
	// Further rounds are those of what bounds compare only.
	Further int `json:"further_rounds"`
	// Shuffled is true where each turn had an order of its own.
	Shuffled bool    `json:"shuffled"`
	Seconds  float64 `json:"seconds"` // of each measurement
	WarmUp   float64 `json:"warm_up_seconds"`
	// Turn is how long each works at a time until it has worked for so many seconds.
	Turn float64 `json:"turn_seconds"`
	// Complete is false where the run was interrupted.
	Complete bool `json:"complete"`
}

// Workload is a kind of work with what every contender made of it.
type Workload struct {
	Name  string `json:"name"`
	Unit  string `json:"unit"`
	About string `json:"about"`
	// Noise is the difference of a ratio from 1 that means nothing, where all rounds were measured.
	Noise      float64     `json:"noise"`
	Contenders []Contender `json:"contenders"`
	// Again has the base's second values.
	Again []Value `json:"again"`
}

// Contender is what one made of a workload.
type Contender struct {
	Name   string  `json:"name"`
	Median float64 `json:"median"`
	Min    float64 `json:"min"`
	Max    float64 `json:"max"`
	// Ratio is the median of the rounds' ratios to the static route.
	Ratio    float64 `json:"ratio"`
	RatioMin float64 `json:"ratio_min"`
	RatioMax float64 `json:"ratio_max"`
	// Noise is how far off the ratio may be, as a part of it.
	Noise float64 `json:"noise"`
	// RulesRatio is that to two rules, null where these were not measured.
	RulesRatio *float64 `json:"ratio_to_iprule_2"`
	// Difference from the static route: none, better or worse; few rounds where these do not say.
	Difference string  `json:"difference"`
	Values     []Value `json:"values"`
}

// Rounds is how many have a value.
func (c *Contender) Rounds() int { return len(perRound(c.Values)) }

// Figure is something measured once, or a few times, beside the workloads.
type Figure struct {
	Name  string  `json:"name"`
	Unit  string  `json:"unit"`
	Value float64 `json:"value"` // the median
	Min   float64 `json:"min"`
	Max   float64 `json:"max"`
	// Bound is the most that it may be, null for none.
	Bound  *float64  `json:"bound"`
	Values []float64 `json:"values"`
}

// Absent is a contender or workload that was not measured.
type Absent struct {
	Name   string `json:"name"`
	Reason string `json:"reason"`
}

// Failure is a measurement that came to nothing.
type Failure struct {
	Round     int    `json:"round"`
	Workload  string `json:"workload"`
	Contender string `json:"contender"`
	Error     string `json:"error"`
}

// NewFigure makes a figure of at least one value.
func NewFigure(name, unit string, values ...float64) Figure {
	return Figure{
		Name: name, Unit: unit, Value: Median(values), Min: slices.Min(values), Max: slices.Max(values), Values: values,
	}
}

// Within gives the figure a bound.
func (f Figure) Within(bound float64) Figure {
	f.Bound = &bound
	return f
}

// Verdict is met or exceeded, "" without a bound.
func (f Figure) Verdict() string {
	switch {
	case f.Bound == nil:
		return ""
	case f.Value > *f.Bound:
		return "exceeded"
	default:
		return "met"
	}
}

// Summarize fills in a workload from the values of each contender, in this order. Those without a value are left out.
func (w *Workload) Summarize(order []string, values map[string][]Value) {
	w.Again, w.Contenders = values[Again], []Contender{}
	w.Noise = Noise(Ratios(values[Again], values[base]), len(perRound(values[base])))
	for _, name := range order {
		if len(values[name]) > 0 && name != Again {
			w.Contenders = append(w.Contenders, w.summary(name, values))
		}
	}
}

// Renew derives everything from the raw values once more: it may have been an earlier version of
// this program that did so first.
func (r *Results) Renew() {
	for i := range r.Workloads {
		w := &r.Workloads[i]
		values := map[string][]Value{Again: w.Again}
		var order []string
		for _, c := range w.Contenders {
			order = append(order, c.Name)
			values[c.Name] = c.Values
		}
		w.Summarize(order, values)
	}
	r.Judge()
}

func (w *Workload) summary(name string, all map[string][]Value) Contender {
	values := perRound(all[name])
	c := Contender{
		Name: name, Median: Median(values), Min: slices.Min(values), Max: slices.Max(values), Values: all[name],
	}
	if ratios := Ratios(all[name], all[base]); len(ratios) > 0 {
		c.Ratio, c.RatioMin, c.RatioMax = Median(ratios), slices.Min(ratios), slices.Max(ratios)
		c.Noise = noiseOf(ratios, Ratios(all[Again], all[base]))
		c.Difference = difference(c.Ratio, c.Noise, len(ratios))
	}
	c.RulesRatio = known(Ratios(all[name], all[rules]))
	return c
}

// known returns the median of values, nil where there are none.
func known(values []float64) *float64 {
	if len(values) == 0 {
		return nil
	}
	median := Median(values)
	return &median
}

// difference says what a ratio of so many rounds means that may be off by so much of it.
func difference(ratio, noise float64, rounds int) string {
	switch {
	case rounds < leastRounds:
		return fewRounds
	case math.Abs(ratio-1) <= noise:
		return "none"
	case ratio > 1:
		return "better"
	default:
		return "worse"
	}
}

// Contender returns what a contender made of the workload, or nil.
func (w *Workload) Contender(name string) *Contender {
	for i := range w.Contenders {
		if w.Contenders[i].Name == name {
			return &w.Contenders[i]
		}
	}
	return nil
}

// Workload returns a workload by its name, or nil.
func (r *Results) Workload(name string) *Workload {
	for i := range r.Workloads {
		if r.Workloads[i].Name == name {
			return &r.Workloads[i]
		}
	}
	return nil
}

// Write writes the results to a file, whose directory is made.
func (r *Results) Write(file string) error {
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("encode the results: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return fmt.Errorf("write the results: %w", err)
	}
	if err := os.WriteFile(file, append(data, '\n'), 0o644); err != nil {
		return fmt.Errorf("write the results: %w", err)
	}
	return nil
}

// Read reads what Write has written.
func Read(file string) (*Results, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read the results: %w", err)
	}
	r := new(Results)
	if err := json.Unmarshal(data, r); err != nil {
		return nil, fmt.Errorf("read the results in %s: %w", file, err)
	}
	return r, nil
}

// Failed returns an error that names the measurements that came to nothing.
func (r *Results) Failed() error {
	var errs []error
	for _, f := range r.Failures {
		errs = append(errs, fmt.Errorf("round %d, %s, %s: %s", f.Round+1, f.Workload, f.Contender, f.Error))
	}
	return errors.Join(errs...)
}
