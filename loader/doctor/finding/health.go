// SPDX-License-Identifier: Apache-2.0

package finding

import "slices"

// Health is what all findings together say. The JSON names are fixed.
type Health struct {
	State    State     `json:"state"`
	Findings []Finding `json:"findings"` // those that are not OK, what matters most first
}

// State is the first word of every answer about a host.
type State string

// States.
const (
	Well     State = "ok"       // nothing is known that harms replies
	Degraded State = "degraded" // replies go right, some of them by luck alone, or for as long as nothing changes
	Failed   State = "failed"   // replies, or what the host opens itself, fail now
)

// HealthOf concludes from findings, which are in the order of their severities.
func HealthOf(findings []Finding) Health {
	h := Health{State: Well, Findings: []Finding{}}
	for _, f := range findings {
		if f.Severity != OK {
			h.Findings = append(h.Findings, f)
		}
	}
	has := func(s Severity) bool {
		return slices.ContainsFunc(h.Findings, func(f Finding) bool { return f.Severity == s })
	}
	switch {
	case has(Error):
		h.State = Failed
	case has(Warning):
		h.State = Degraded
	}
	return h
}

// Worst are the findings for which the state is not Well.
func (h *Health) Worst() []Finding {
	return slices.DeleteFunc(slices.Clone(h.Findings), func(f Finding) bool { return f.Severity == Note })
}
