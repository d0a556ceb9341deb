// Package doctor looks at a host for settings that break or weaken the reply
// path, and mends those that can be mended without asking anybody.
//
// It first takes a snapshot of the network namespace (Host), with or without a
// datapath in place; every check is a function of that snapshot alone.
package doctor

import (
	"cmp"
	"slices"
	"strings"

	"replypath/loader/config"
	"replypath/loader/hostsettings"
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
	Fix       *string  `json:"fix"`       // the command that mends it; nil: somebody has to decide
	Fixed     bool     `json:"fixed"`     // by this call of Fix

	// sysctls are what Fix may set.
	sysctls []sysctl
}

// sysctl is a setting with the value that it should have.
type sysctl struct{ key, value string }

// Fixable tells whether Fix mends the finding by itself.
func (f *Finding) Fixable() bool { return len(f.sysctls) > 0 }

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
	host, err := gather(options)
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
			found = []Finding{finding(OK, "", c.fine, "")}
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

// finding makes a finding. Without an interface it is about the host, without a
// fix somebody has to decide.
func finding(severity Severity, device, found, fix string) Finding {
	return Finding{Severity: severity, Interface: orNil(device), Found: found, Fix: orNil(fix)}
}

// mending makes a finding that is mended by sysctls.
func mending(severity Severity, device, found string, sysctls ...sysctl) Finding {
	words := []string{"sysctl", "-w"}
	for _, s := range sysctls {
		words = append(words, s.key+"="+s.value)
	}
	f := finding(severity, device, found, strings.Join(words, " "))
	f.sysctls = sysctls
	return f
}

func orNil(text string) *string {
	if text == "" {
		return nil
	}
	return &text
}

// of4 and of6 name a setting of an interface, or of "all".
func of4(name, leaf, value string) sysctl {
	return sysctl{hostsettings.Key("ipv4", name, leaf), value}
}

func of6(name, leaf, value string) sysctl {
	return sysctl{hostsettings.Key("ipv6", name, leaf), value}
}
