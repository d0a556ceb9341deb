// SPDX-License-Identifier: Apache-2.0

// Package doctor looks at a host for settings that break or weaken the reply
// path, and changes none. It never tells anybody to change what somebody else
// made: it says what there is, and whose it is.
//
// It first takes a snapshot of the network namespace (gather), with or without a
// datapath in place; every check is a function of that snapshot alone.
package doctor

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	"replypath/loader/doctor/gather"
	"replypath/loader/doctor/remedy"
	"replypath/loader/doctor/snapshot"
	"replypath/loader/finding"
	"replypath/loader/pins"
	"replypath/loader/status"
)

// What doctor is asked, and what it answers.
type (
	// Options say what is examined.
	Options = gather.Options
	// Finding is what a check has found.
	Finding = finding.Finding
)

// Severities of findings.
const (
	Error   = finding.Error
	Warning = finding.Warning
	Note    = finding.Note
	OK      = finding.OK
)

// Examine looks at the network namespace of the calling thread. Every check has
// at least one finding; those that matter most come first. The error matches
// pins.ErrForeignNamespace where the pins belong to another namespace.
//
// It changes nothing, but asks gateways that have not answered lately.
func Examine(options Options) ([]Finding, error) {
	host, err := gather.Snapshot(options)
	if err != nil {
		return nil, err
	}
	return Judge(host), nil
}

// Status reads what the datapath of a pin directory does, and what is to be said of it. Nobody is asked anything, and nothing is
// waited for. The error matches pins.ErrNone where nothing is pinned; the status then has what is to be said alone.
func Status(pinDir string) (*status.Status, error) {
	host, err := gather.Snapshot(Options{PinDir: pinDir, Quiet: true})
	if err != nil {
		return nil, err
	}
	s := host.Status
	if s == nil {
		s, err = status.Read(pinDir)
	}
	if errors.Is(err, pins.ErrNone) {
		s = &status.Status{PinDir: pins.Shown(pinDir)}
		if e := host.Elsewhere; e != nil {
			err = fmt.Errorf("%w in %s: %s", pins.ErrNone, pinDir, e)
		}
	}
	if s != nil {
		s.Health = finding.HealthOf(Judge(host))
	}
	return s, err
}

// Judge runs all checks on a snapshot, as Examine does.
func Judge(h *snapshot.Host) []Finding {
	var all []Finding
	for _, c := range known {
		found := c.find(h)
		for i := range found {
			f := &found[i]
			f.Check, f.Anchor = c.name, "troubleshooting.md#"+anchor(c.name)
			f.Subject = cmp.Or(f.Subject, finding.OrEmpty(f.Interface))
			if h.Elsewhere != nil && remedy.Begins(f.Fix) {
				f.Fix, f.Inspect = nil, new(remedy.AskElsewhere(h.Elsewhere))
			}
		}
		all = append(all, found...)
	}
	slices.SortStableFunc(all, func(a, b Finding) int {
		return cmp.Compare(a.Severity.Rank(), b.Severity.Rank())
	})
	return all
}

// anchor is where the table of the documentation has a check.
func anchor(check string) string { return "check-" + check }

// find runs a check, and says something unless `facts` does: that says once what could not be read.
func (c *check) find(h *snapshot.Host) []Finding {
	for _, part := range c.needs {
		if _, failed := h.Failed[part]; failed {
			return nil
		}
	}
	for _, part := range c.needs {
		if takes, unread := h.Unread[part]; unread {
			text := fmt.Sprintf("%s is not looked at: to read %s takes %s", c.name, part, takes)
			return []Finding{finding.Seen(finding.Warning, "", text, remedy.AsRoot(&h.State))}
		}
	}
	if found := c.examine(h); len(found) > 0 {
		return found
	}
	return []Finding{finding.Fine("", c.fine)}
}
