// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"os"
	"os/exec"
	"regexp"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// The alerts of docs/prometheus-alerts.yaml fire when they should.
func TestAlerts(t *testing.T) {
	promtool, err := exec.LookPath("promtool")
	if err != nil {
		t.Fatalf("promtool is missing; it comes with Debian's package prometheus: %v", err)
	}
	if out, err := exec.Command(promtool, "test", "rules", "testdata/alerts.yaml").CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// Each alert has a section of the runbook, and each section an alert.
func TestAlertsHaveRunbooks(t *testing.T) {
	alerts := matches(t, "../docs/prometheus-alerts.yaml", `(?m)^ +- alert: (\w+)$`)
	sections := matches(t, "../docs/guide/alerts.md", `(?m)^## (\w+)$`)
	if len(alerts) == 0 {
		t.Fatal("there is no alert at all")
	}
	if diff := cmp.Diff(alerts, sections); diff != "" {
		t.Errorf("the sections of docs/guide/alerts.md are not the alerts, in their order (-alerts +sections):\n%s", diff)
	}
}

// matches returns the first group of each match in a file.
func matches(t *testing.T, file, pattern string) []string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, match := range regexp.MustCompile(pattern).FindAllSubmatch(text, -1) {
		names = append(names, string(match[1]))
	}
	return names
}
