// SPDX-License-Identifier: Apache-2.0

package finding

import (
	"os/exec"
	"strings"
	"testing"
)

// TestHealthOf: the worst finding decides, and what is in order is left out.
func TestHealthOf(t *testing.T) {
	for _, test := range []struct {
		severities []Severity
		want       State
		findings   int
	}{
		{nil, Well, 0},
		{[]Severity{OK}, Well, 0},
		{[]Severity{Note, OK}, Well, 1},
		{[]Severity{Warning, Note, OK}, Degraded, 2},
		{[]Severity{Error, Warning, OK, OK}, Failed, 2},
	} {
		var all []Finding
		for _, s := range test.severities {
			all = append(all, Finding{Severity: s})
		}
		if h := HealthOf(all); h.State != test.want || len(h.Findings) != test.findings {
			t.Errorf("%v: %+v", test.severities, h)
		}
	}
}

// TestBrief: the first clause says it, with the family before it, and less of it where it is long.
func TestBrief(t *testing.T) {
	for found, want := range map[string]string{
		"eth1 is down: replies go nowhere":                  "eth1 is down",
		"ipv4: no default route but that of x: replies are": "ipv4: no default route but that of x",
		"all is said": "all is said",
		"10.4.0.100 on eth1: replies leave by eth0, to peers beyond: x":    "10.4.0.100 on eth1: replies leave by eth0",
		"this process lacks CAP_BPF, which a start needs to load programs": "this process lacks CAP_BPF",
		strings.Repeat("w ", 30) + "w: x":                                  strings.Repeat("w ", 30) + "w",
	} {
		f := Finding{Check: "check", Subject: "eth1", Found: found}
		if got := f.Brief(); got != want {
			t.Errorf("%q: %q, not %q", found, got, want)
		}
	}
}

func TestQuote(t *testing.T) {
	for word, want := range map[string]string{
		"/etc/replypath.yaml": "/etc/replypath.yaml", "eth0.7": "eth0.7", "": "''",
		"/etc/a b": "'/etc/a b'", "it's": `'it'\''s'`, "$HOME": "'$HOME'",
	} {
		if got := Quote(word); got != want {
			t.Errorf("%q: %s, not %s", word, got, want)
		}
		output, err := exec.Command("sh", "-c", "printf %s "+Quote(word)).Output()
		if string(output) != word || err != nil {
			t.Errorf("%q: the shell reads %q, %v", word, output, err)
		}
	}
}
