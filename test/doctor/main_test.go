// Package doctor tests `replypath doctor` on hosts with a fault: it is found,
// mended by the command that stands beside it or by --fix, and detach takes
// --fix back.
package doctor

import (
	"strings"
	"testing"

	"replypath/test/harness"
	"replypath/test/topology"
)

func TestMain(m *testing.M) { harness.Main(m) }

var both = []topology.Family{topology.IPv4, topology.IPv6}

func newServer(t *testing.T) *topology.TwoNIC {
	t.Helper()
	return harness.NewTwoNIC(t, topology.TwoNICOptions{Policy: topology.AnySource})
}

// shell runs a command line on a host.
func shell(t *testing.T, host *topology.Host, line string) {
	t.Helper()
	output, err := host.Command(harness.Within(t, harness.AnswerTime), "sh", "-ec", line).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", line, err, output)
	}
}

func wantSysctl(t *testing.T, host *topology.Host, key, want string) {
	t.Helper()
	if got := harness.Must1[string](t)(host.Sysctl(key)); got != want {
		t.Errorf("%s is %s, not %s", key, got, want)
	}
}

// onlyOne wants exactly one finding of a severity.
func onlyOne(t *testing.T, all harness.Findings, check, device, severity string, words ...string) harness.Finding {
	t.Helper()
	found := all.Of(check, device).With(severity, words...)
	if len(found) != 1 {
		t.Fatalf("%d findings %q of check %s on %q with %q, not one: %+v", len(found), severity, check, device, words, all.Of(check, ""))
	}
	f := found[0]
	if strings.ContainsAny(f.Found, "\n") || f.Found == "" || strings.ToLower(f.Found[:1]) != f.Found[:1] {
		t.Errorf("not one line in lower case: %q", f.Found)
	}
	if isFine := f.Severity == "ok"; isFine != (f.Fix == nil) || f.Fix != nil && *f.Fix == "" {
		t.Errorf("what mends it is %v: %+v", f.Fix, f)
	}
	return f
}
