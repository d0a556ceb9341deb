// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// The alerts of docs/prometheus-alerts.yaml fire when they should.
func TestAlerts(t *testing.T) {
	promtool, err := exec.LookPath("promtool")
	if err != nil {
		t.Fatalf("promtool is missing; it comes with Debian's package prometheus: %v", err)
	}
	for _, tests := range []string{"testdata/alerts.yaml", "testdata/alerts-days.yaml"} {
		t.Run(tests, func(t *testing.T) {
			t.Parallel()
			if out, err := exec.Command(promtool, "test", "rules", tests).CombinedOutput(); err != nil {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
}

// Each alert has a section of the runbook that its runbook_url leads to, and each section an alert.
func TestAlertsHaveRunbooks(t *testing.T) {
	alerts := matches(t, "../docs/prometheus-alerts.yaml", `(?m)^ +- alert: (\w+)$`)
	sections := matches(t, "../docs/guide/alerts.md", `(?m)^## (\w+)$`)
	if len(alerts) == 0 {
		t.Fatal("there is no alert at all")
	}
	if diff := cmp.Diff(alerts, sections); diff != "" {
		t.Errorf("the sections of docs/guide/alerts.md are not the alerts, in their order (-alerts +sections):\n%s", diff)
	}
	runbooks := matches(t, "../docs/prometheus-alerts.yaml", `(?m)^ +runbook_url: file:///usr/share/doc/replypath/docs/guide/alerts\.md#(\S+)$`)
	for i, alert := range alerts {
		alerts[i] = strings.ToLower(alert) // as the heading's anchor is called
	}
	if diff := cmp.Diff(alerts, runbooks); diff != "" {
		t.Errorf("the runbooks are not those of the alerts (-alerts +runbooks):\n%s", diff)
	}
}

// The tests have each alert fire.
func TestAlertsAreTested(t *testing.T) {
	fires := append(matches(t, "testdata/alerts.yaml", `\{alertname="(\w+)"\}', value: 1\}`),
		matches(t, "testdata/alerts-days.yaml", `\{alertname="(\w+)", alertstate="firing"`)...)
	for _, alert := range matches(t, "../docs/prometheus-alerts.yaml", `(?m)^ +- alert: (\w+)$`) {
		if !slices.Contains(fires, alert) {
			t.Errorf("no test has %s fire", alert)
		}
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
