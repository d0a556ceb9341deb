// SPDX-License-Identifier: Apache-2.0

package report

import "slices"

// bound is a ratio that the project promises.
type bound struct {
	workload, contender, to string
	atLeast                 float64
}

// BoundResult is what became of a bound.
type BoundResult struct {
	Name    string  `json:"name"`
	AtLeast float64 `json:"at_least"`
	Ratio   float64 `json:"ratio"`
	Noise   float64 `json:"noise"`
	// Verdict is met or missed; noise where the ratio is no further from the bound than that; few
	// rounds where their scatter says nothing yet; or not measured.
	Verdict string `json:"verdict"`
}

// bounds are those of the enforcing contender.
var bounds = []bound{
	{"udp-echo-64", ours, base, 0.98},
	{"udp-echo-64", ours, rules, 1.00},
	{"udp-echo-64", ours, "iprule-100", 1.15},
	{"udp-echo-64", ours, "iprule-1000", 2.5},
	{"udp-echo-64", ours, "connmark", 1.15},
	{"tcp-rr", ours, base, 0.98},
	{"tcp-rr", ours, "connmark", 1.05},
	{"tcp-crr", ours, base, 0.97},
	{"tcp-crr", ours, rules, 1.00},
	{"tcp-crr", ours, "connmark", 1.10},
	{"tcp-crr-beside", ours, rules, 1.00},
	{"tcp-crr-beside", ours, floor, 0.985},
	{"tcp-rr-beside", ours, floor, 0.99},
	{"udp-echo-64-beside", ours, floor, 0.995},
	{"tcp-bulk", ours, base, 0.99},
	{"tcp-bulk-in", ours, base, 0.99},
	{"nginx", ours, rules, 1.00},
	{"nginx-connect", ours, rules, 1.00},
	{"postgresql", ours, rules, 1.00},
	{"forward", ours, base, 0.99},
	{"origin-udp-64", strong, rules, 1.00},
	{"origin-tcp-rr", strong, base, 0.98},
}

// Compared names those of the contenders that are measured with a workload which a
// bound compares there, what shows the noise, and what a redirect alone costs; none where no bound can be judged.
func Compared(workload string, measured []string) []string {
	var names []string
	for _, b := range append(slices.Clone(bounds), bound{twoCores, ours, base, gainBound}) {
		if b.workload == workload && slices.Contains(measured, b.contender) && slices.Contains(measured, b.to) {
			names = append(names, b.contender, b.to, base, Again)
		}
	}
	if len(names) > 0 && slices.Contains(measured, redirect) {
		names = append(names, redirect)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

const (
	ours     = "replypath"
	strong   = "replypath-strong"
	redirect = "constants"
	floor    = "floor"
	// gainBound is the least of what a second core gives the static route that it gives the contender.
	gainBound = 0.95
	oneCore   = "udp-echo-64"
	twoCores  = "udp-echo-64-two-cores"
)

// Judge holds the results against the bounds.
func (r *Results) Judge() {
	r.Bounds = []BoundResult{}
	for _, b := range bounds {
		name := b.workload + ": " + b.contender + " / " + b.to
		w := r.Workload(b.workload)
		if w == nil {
			r.Bounds = append(r.Bounds, notMeasured(name, b.atLeast))
			continue
		}
		r.Bounds = append(r.Bounds, w.compare(b.contender, b.to).judge(name, b.atLeast))
	}
	r.Bounds = append(r.Bounds, r.judgeGain())
}

// ShownRatio is the ratio for a table, "-" where it was not measured.
func (b BoundResult) ShownRatio() string { return b.shown(ratio, b.Ratio) }

// ShownNoise is the noise for a table.
func (b BoundResult) ShownNoise() string { return b.shown(percent, b.Noise) }

func (b BoundResult) shown(format func(float64) string, v float64) string {
	if b.Ratio == 0 {
		return "-"
	}
	return format(v)
}

func notMeasured(name string, atLeast float64) BoundResult {
	return BoundResult{Name: name, AtLeast: atLeast, Verdict: "not measured"}
}

// comparison is the median of so many rounds' ratios of one contender to another, and how
// far off that may be, as a part of it.
type comparison struct {
	ratio, noise float64
	rounds       int
}

func (w *Workload) compare(name, to string) comparison {
	a, b := w.Contender(name), w.Contender(to)
	if a == nil || b == nil {
		return comparison{}
	}
	ratios := Ratios(a.Values, b.Values)
	var same []float64
	if static := w.Contender(base); static != nil {
		same = Ratios(w.Again, static.Values)
	}
	return comparison{Median(ratios), noiseOf(ratios, same), len(ratios)}
}

// judgeGain compares what a second core gives.
func (r *Results) judgeGain() BoundResult {
	const name = "gain by the second core: " + ours + " / " + base
	one, two := r.Workload(oneCore), r.Workload(twoCores)
	if one == nil || two == nil {
		return notMeasured(name, gainBound)
	}
	onOne, onTwo := one.compare(ours, base), two.compare(ours, base)
	if onOne.ratio == 0 {
		return notMeasured(name, gainBound)
	}
	gain := comparison{onTwo.ratio / onOne.ratio, onOne.noise + onTwo.noise, min(onOne.rounds, onTwo.rounds)}
	return gain.judge(name, gainBound)
}

// judge holds a comparison against a bound.
func (c comparison) judge(name string, atLeast float64) BoundResult {
	result := BoundResult{Name: name, AtLeast: atLeast, Ratio: c.ratio, Noise: c.noise, Verdict: "noise"}
	switch {
	case c.rounds == 0:
		return notMeasured(name, atLeast)
	case c.rounds < leastRounds:
		result.Verdict = fewRounds
	case c.ratio*(1-c.noise) > atLeast || c.ratio >= atLeast && c.noise == 0:
		result.Verdict = "met"
	case c.ratio*(1+c.noise) < atLeast:
		result.Verdict = "missed"
	}
	return result
}
