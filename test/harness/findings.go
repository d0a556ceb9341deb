package harness

import (
	"slices"
	"strings"
)

// Finding is an entry of the JSON document of `replypath doctor`.
type Finding struct {
	Check, Severity string
	Interface       *string
	Found           string
	Fix             *string
	Automatic       bool
	Fixed           bool
}

var findingKeys = []string{"[].check", "[].severity", "[].interface", "[].found", "[].fix"}

// Findings are those of one examination.
type Findings []Finding

// Doctor examines the host and wants an exit code.
func (p *Product) Doctor(code int, args ...string) Findings {
	p.t.Helper()
	var findings Findings
	decode(p.t, p.Expect(code, append([]string{"doctor", "-o", "json"}, args...)...), &findings, findingKeys)
	return findings
}

// Examine examines the host, whatever is found.
func (p *Product) Examine() Findings {
	p.t.Helper()
	result := p.Run("doctor", "-o", "json")
	if result.Code != 0 && result.Code != 3 {
		p.t.Fatalf("exit %d, not 0 or 3: %s", result.Code, result)
	}
	var findings Findings
	decode(p.t, result, &findings, findingKeys)
	return findings
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
