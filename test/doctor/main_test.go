// SPDX-License-Identifier: Apache-2.0

// Package doctor tests `replypath doctor` on hosts with a fault: it is found, and mended by the sysctl that stands
// beside it or by --fix, which detach takes back. What others made is shown as theirs, and nothing that doctor says,
// typed, takes traffic away.
package doctor

import (
	"strings"
	"testing"

	"replypath/test/await"
	"replypath/test/product"
	_ "replypath/test/product/inprocess"
	"replypath/test/topology"
)

func TestMain(m *testing.M) { product.Main(m) }

func wantSysctl(t *testing.T, host *topology.Host, key, want string) {
	t.Helper()
	if got := await.Must1[string](t)(host.Sysctl(key)); got != want {
		t.Errorf("%s is %s, not %s", key, got, want)
	}
}

// onlyOne wants exactly one finding of a severity.
func onlyOne(t *testing.T, all product.Findings, check, device, severity string, words ...string) product.Finding {
	t.Helper()
	found := all.Of(check, device).With(severity, words...)
	if len(found) != 1 {
		t.Fatalf("%d findings %q of check %s on %q with %q, not one: %+v", len(found), severity, check, device, words, all.Of(check, ""))
	}
	f := found[0]
	if strings.ContainsAny(f.Found, "\n") || f.Found == "" || strings.ToLower(f.Found[:1]) != f.Found[:1] {
		t.Errorf("not one line in lower case: %q", f.Found)
	}
	if f.Severity == "ok" && f.Fix != nil {
		t.Errorf("in order, and yet to be mended: %+v", f)
	}
	return f
}
