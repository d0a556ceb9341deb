// SPDX-License-Identifier: Apache-2.0

// Package finding is what a check of doctor has to say.
package finding

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// Severity says how much a finding matters.
type Severity string

// Severities.
const (
	// Error: replies, or what the host opens itself, fail now.
	Error Severity = "error"
	// Warning: they will fail, or go right by luck alone.
	Warning Severity = "warning"
	// Note is worth knowing; no packet is at risk.
	Note Severity = "note"
	// OK is what was looked at and found in order.
	OK Severity = "ok"
)

// Rank puts what matters most first.
func (s Severity) Rank() int { return slices.Index([]Severity{Error, Warning, Note, OK}, s) }

// Finding is what a check has found. The JSON names are fixed.
type Finding struct {
	Check     string   `json:"check"`
	Severity  Severity `json:"severity"`
	Interface *string  `json:"interface"` // nil: the host as a whole
	// Subject is what the finding is about: an interface, an address, a gateway, a rule; empty for the host as a whole.
	Subject  string    `json:"subject"`
	Found    string    `json:"found"`    // one line, whose first clause says it in a few words
	Evidence *Evidence `json:"evidence"` // nil: it is a state, and nothing was counted
	Anchor   string    `json:"anchor"`   // where the documentation tells more
	// Fix is what a person types to mend it, and cannot take traffic away: settings of managed
	// interfaces, and what is replypath's own. nil where there is no such thing.
	Fix *string `json:"fix"`
	// Inspect is a command that only reads, for what somebody else made. A problem has
	// at least one of both.
	Inspect *string `json:"inspect"`
	// Owner is whose it seems to be; nil where nothing tells.
	Owner *string `json:"owner"`
}

// Evidence is what was counted, and over which time. Since is nil where that is not known.
type Evidence struct {
	Count uint64     `json:"count"`
	Since *time.Time `json:"since"`
	Until time.Time  `json:"until"`
}

// Fine makes a finding that all is in order. Without an interface it is about the
// host.
func Fine(device, found string) Finding {
	return Finding{Severity: OK, Interface: OrNil(device), Found: found}
}

// Problem makes a finding that a person mends without harm to anybody. fix says how, and is
// never empty: a command of replypath or its unit, the line of the configuration to be set, or
// a sysctl of a managed interface. What somebody else made is for Seen.
func Problem(severity Severity, device, found, fix string) Finding {
	return Advised(severity, device, found, Remedy{Fix: fix})
}

// Seen makes a finding about what somebody else made, or has to. No command that
// changes it is given, as that may take traffic away: inspect, which is never empty,
// only reads.
func Seen(severity Severity, device, found, inspect string) Finding {
	return Advised(severity, device, found, Remedy{Inspect: inspect})
}

// Remedy is what to do about a problem: either of a fix or a command that only reads.
type Remedy struct{ Fix, Inspect string }

// Advised makes a finding of a problem whose remedy depends on the host.
func Advised(severity Severity, device, found string, r Remedy) Finding {
	return Finding{Severity: severity, Interface: OrNil(device), Found: found, Fix: OrNil(r.Fix), Inspect: OrNil(r.Inspect)}
}

// Of notes whose it seems to be; empty where nothing tells.
func (f Finding) Of(owner string) Finding {
	f.Owner = OrNil(owner)
	return f
}

// About notes what it is about, where that is not its interface.
func (f Finding) About(subject string) Finding {
	f.Subject = subject
	return f
}

// Shown notes what was counted.
func (f Finding) Shown(count uint64, since *time.Time) Finding {
	f.Evidence = &Evidence{Count: count, Since: since, Until: time.Now()}
	return f
}

// Brief is the first clause of what was found, where that is long up to its first comma.
func (f *Finding) Brief() string {
	clause, rest, _ := strings.Cut(f.Found, ": ")
	word, _, isLonger := strings.Cut(clause, " ")
	next, _, _ := strings.Cut(rest, ": ")
	next, _, _ = strings.Cut(next, ", ")
	service, _, _ := strings.Cut(next, " ")
	_, noAddress := netip.ParseAddr(word)
	_, noService := netip.ParseAddrPort(service)
	if noAddress == nil || noService == nil || !isLonger { // an address with its interface, a service, a family
		clause += ": " + next
	}
	if utf8.RuneCountInString(clause) > fewWords {
		clause, _, _ = strings.Cut(clause, ", ")
	}
	return clause
}

// fewWords is how many characters say something in a few words.
const fewWords = 48

// None is the finding where there is nothing to say.
var None Finding

// Each collects what there is to say of each thing of a list.
func Each[T any](list []T, say func(*T) Finding) []Finding {
	var found []Finding
	for n := range list {
		if f := say(&list[n]); f.Severity != "" {
			found = append(found, f)
		}
	}
	return found
}

// Explained is a command with what there is to know before it is typed, as a
// comment of the shell.
func Explained(command, why string) string { return command + "  # " + why }

// Counted is a number with its noun.
func Counted[N int | uint64](n N, one, more string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, more)
}

// Moment is the time of day, or the day where that is another one.
func Moment(at, now time.Time) string {
	at, now = at.Local(), now.Local()
	if at.Format(time.DateOnly) == now.Format(time.DateOnly) {
		return at.Format("15:04")
	}
	return at.Format(time.DateOnly)
}

// Quote writes a word as the shell reads it.
func Quote(word string) string {
	isPlain := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("/._-:@%+=,", r)
	}
	if word != "" && strings.IndexFunc(word, func(r rune) bool { return !isPlain(r) }) < 0 {
		return word
	}
	return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
}

// OrNil is nil for an empty text.
func OrNil(text string) *string {
	if text == "" {
		return nil
	}
	return &text
}

// OrEmpty is the reverse of OrNil.
func OrEmpty(text *string) string {
	if text == nil {
		return ""
	}
	return *text
}

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
