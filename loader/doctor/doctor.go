// Package doctor looks at a host for settings that break or weaken the reply
// path, and mends those that can be mended without asking anybody. It never tells
// anybody to change what somebody else made: it says what there is, and whose it is.
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
	// Fix mends it and cannot take traffic away: settings of managed interfaces that
	// detach gives back, and what is replypath's own. nil where there is no such thing.
	Fix *string `json:"fix"`
	// Inspect is a command that only reads, for what somebody else made. A problem has
	// at least one of both.
	Inspect *string `json:"inspect"`
	// Owner is whose it seems to be; nil where nothing tells.
	Owner     *string `json:"owner"`
	Automatic bool    `json:"automatic"` // Fix does it; else it is for a person to do
	Fixed     bool    `json:"fixed"`     // by this call of Fix

	// sysctls are what Fix sets.
	sysctls []sysctl
}

// Options say what is examined.
type Options struct {
	PinDir string
	// Config is what is examined; nil for the configuration in force, or what a start would read.
	Config *config.Config
	// ConfigPath is the file of Config, to be named where a change of it is proposed.
	ConfigPath string
	// Traffic reads what a datapath has counted; nil: that is not looked at.
	Traffic func(pinDir string) ([]Counted, error)
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
		found := c.find(h)
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

// find runs a check, and says something in any case.
func (c *check) find(h *Host) []Finding {
	if f, unread := h.notLookedAt(c); unread {
		return []Finding{f}
	}
	if found := c.examine(h); len(found) > 0 {
		return found
	}
	return []Finding{fine("", c.fine)}
}

func orNil(text string) *string {
	if text == "" {
		return nil
	}
	return &text
}
