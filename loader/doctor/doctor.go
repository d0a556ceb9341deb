// Package doctor looks at a host for settings that break or weaken the reply
// path, and mends those that can be mended without asking anybody.
//
// It first takes a snapshot of the network namespace (Host), with or without a
// datapath in place; every check is a function of that snapshot alone.
package doctor

import (
	"cmp"
	"slices"

	"replypath/loader/config"
)

// Severity says how much a finding matters.
type Severity string

// Severities.
const (
	// Error is what keeps replies, or the packets that they answer, from getting
	// where they belong.
	Error Severity = "error"
	// Warning is what may do so, what costs, and what is needless.
	Warning Severity = "warning"
	// OK is what was looked at and found in order.
	OK Severity = "ok"
)

// rank puts what matters most first.
func (s Severity) rank() int { return slices.Index([]Severity{Error, Warning, OK}, s) }

// Finding is what a check has found. The JSON names are fixed.
type Finding struct {
	Check     string   `json:"check"`
	Severity  Severity `json:"severity"`
	Interface *string  `json:"interface"` // nil: the host as a whole
	Found     string   `json:"found"`     // one line
	Fix       *string  `json:"fix"`       // what mends it; nil where it is OK, and only there
	Automatic bool     `json:"automatic"` // Fix does it; else it is for a person to do
	Fixed     bool     `json:"fixed"`     // by this call of Fix

	// sysctls are what Fix sets.
	sysctls []sysctl
}

// Options say what is examined.
type Options struct {
	PinDir string
	Config *config.Config
	// ConfigPath is the file to be named where a change of the configuration is
	// proposed.
	ConfigPath string
	// Root is what the files of the host are looked up in; empty for "/".
	Root string
}

// Examine looks at the network namespace of the calling thread. Every check has
// at least one finding; those that matter most come first. The error matches
// pins.ErrForeignNamespace where the pins belong to another namespace.
//
// It changes nothing, but asks gateways that have not answered lately.
func Examine(options Options) ([]Finding, error) {
	host, err := gatherSettled(options)
	if err != nil {
		return nil, err
	}
	return examine(host), nil
}

// examine runs all checks on a snapshot.
func examine(h *Host) []Finding {
	var all []Finding
	for _, c := range checks {
		found := c.examine(h)
		if len(found) == 0 {
			found = []Finding{fine("", c.fine)}
		}
		for i := range found {
			found[i].Check = c.name
		}
		all = append(all, found...)
	}
	slices.SortStableFunc(all, func(a, b Finding) int {
		return cmp.Compare(a.Severity.rank(), b.Severity.rank())
	})
	return all
}

func orNil(text string) *string {
	if text == "" {
		return nil
	}
	return &text
}
