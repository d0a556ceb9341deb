// SPDX-License-Identifier: Apache-2.0

package product

import (
	"slices"
	"strings"
	"testing"
	"time"
)

// Finding is an entry of the JSON document of `replypath doctor`.
type Finding struct {
	Check, Severity string
	Interface       *string
	Found           string
	Fix, Inspect    *string
	Owner           *string
	Evidence        *Evidence
}

// Evidence is what was counted, and over which time.
type Evidence struct {
	Count        int
	Since, Until *time.Time
}

var findingKeys = []string{"[].check", "[].severity", "[].interface", "[].found", "[].fix", "[].inspect", "[].owner"}

// Findings are those of one examination.
type Findings []Finding

// Doctor examines the host and wants an exit code.
func (p *Product) Doctor(code int, args ...string) Findings {
	p.t.Helper()
	return p.examine([]int{code}, args)
}

// Examine examines the host, whatever is found.
func (p *Product) Examine(args ...string) Findings {
	p.t.Helper()
	return p.examine([]int{0, 3}, args)
}

func (p *Product) examine(codes []int, args []string) (findings Findings) {
	p.t.Helper()
	result := p.Run(append([]string{"doctor", "-o", "json"}, args...)...)
	if !slices.Contains(codes, result.Code) {
		p.t.Fatalf("exit %d, not one of %d: %s", result.Code, codes, result)
	}
	decode(p.t, result, &findings, findingKeys)
	findings.WantHarmless(p.t)
	return findings
}

// WantHarmless wants no fix that may take traffic away, and of every problem either what mends it or where to look.
func (f Findings) WantHarmless(t testing.TB) {
	t.Helper()
	for _, finding := range f {
		if word := TakesAway(OrEmpty(finding.Fix)); word != "" {
			t.Errorf("the fix %q may take traffic away, by %q: %+v", *finding.Fix, word, finding)
		}
		if finding.Severity != "ok" && finding.Fix == nil && finding.Inspect == nil {
			t.Errorf("neither what mends it nor where to look: %+v", finding)
		}
	}
}

// wantHarmlessTable is WantHarmless for what doctor shows a person.
func wantHarmlessTable(t testing.TB, r *Result) {
	t.Helper()
	for line := range strings.Lines(r.Stdout) {
		fix, ok := strings.CutPrefix(strings.TrimSpace(line), "fix: ")
		if word := TakesAway(fix); ok && word != "" {
			t.Errorf("the fix %q may take traffic away, by %q: %s", fix, word, r)
		}
	}
}

// Of returns the findings of a check, those of an interface if it is not empty.
func (f Findings) Of(check, device string) Findings {
	return slices.DeleteFunc(slices.Clone(f), func(f Finding) bool {
		return f.Check != check || device != "" && (f.Interface == nil || *f.Interface != device)
	})
}

// With returns the findings of a severity whose text has all of the words.
func (f Findings) With(severity string, words ...string) Findings {
	return slices.DeleteFunc(slices.Clone(f), func(f Finding) bool {
		return f.Severity != severity || slices.ContainsFunc(words, func(word string) bool { return !strings.Contains(f.Found, word) })
	})
}

// takesAway are words of commands that take away or rewrite what somebody else made.
var takesAway = []string{"del", "flush", "ethtool", "sed", "ip route", "ip -6 route", "ip rule", "ip -6 rule", "ip link", "nft ", "tc ", "iptables", "nmcli"}

// TakesAway returns the word of a fix by which it may take traffic away, "" for none: no advice of doctor, pasted, may
// do so.
func TakesAway(fix string) string {
	for _, word := range takesAway {
		if strings.Contains(fix, word) {
			return word
		}
	}
	return ""
}

// Explanation is the JSON document of `replypath explain`, as checks read it.
type Explanation struct {
	Protocol *string
	Kernel   struct {
		Interface, Gateway *string
		NextHopMAC         *string `json:"next_hop_mac"`
		Error              *string
	}
	Replypath struct {
		Interface  *string
		NextHopMAC *string `json:"next_hop_mac"`
	}
	Verdict  string
	Reason   *string
	Detail   string
	LeavesBy *string `json:"leaves_by"`
	Seen     *time.Time
	Others   []Explanation
	Matches  int

	result *Result
}

var explainKeys = []string{
	"kernel.interface", "kernel.gateway", "replypath.interface", "replypath.next_hop_mac", "verdict", "reason", "others[].verdict",
}

// Explain asks where a packet goes.
func (p *Product) Explain(args ...string) *Explanation {
	p.t.Helper()
	e := &Explanation{result: p.Expect(0, append([]string{"explain", "-o", "json"}, args...)...)}
	decode(p.t, e.result, e, explainKeys)
	return e
}

// String shows the whole document in a message.
func (e *Explanation) String() string {
	if e.result == nil { // one of the others
		return strings.TrimSpace(e.Verdict + " " + OrEmpty(e.Reason))
	}
	return e.result.String()
}

// OrEmpty is the text behind a pointer, "" for none.
func OrEmpty(text *string) string {
	if text == nil {
		return ""
	}
	return *text
}
