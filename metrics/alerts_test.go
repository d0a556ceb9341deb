// SPDX-License-Identifier: Apache-2.0

package metrics_test

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"replypath/test/await"
)

// Each alert has a section of the runbook that its runbook_url leads to, and each section an alert.
func TestAlertsHaveRunbooks(t *testing.T) {
	alerts := matches(t, "../docs/prometheus-alerts.yaml", `(?m)^ +- alert: (\w+)$`)
	sections := matches(t, "../docs/guide/alerts.md", `(?m)^## (\w+)$`)
	if len(alerts) == 0 {
		t.Fatal("there is no alert at all")
	}
	await.Same(t, "the sections of docs/guide/alerts.md are not the alerts, in their order", alerts, sections)
	runbooks := matches(t, "../docs/prometheus-alerts.yaml", `(?m)^ +runbook_url: file:///usr/share/doc/replypath/docs/guide/alerts\.md#(\S+)$`)
	for i, alert := range alerts {
		alerts[i] = strings.ToLower(alert) // as the heading's anchor is called
	}
	await.Same(t, "the runbooks are not those of the alerts", alerts, runbooks)
}

// alertTests are tests for promtool, which runs them in test/software.
var alertTests = []string{"testdata/alerts.yaml", "testdata/alerts-quiet.yaml", "testdata/alerts-days.yaml"}

// The tests have each alert fire, and stay quiet where there are series of all that it looks at.
func TestAlertsAreTested(t *testing.T) {
	fires := append(matches(t, "testdata/alerts.yaml", `\{alertname="(\w+)"\}', value: 1\}`),
		matches(t, "testdata/alerts-days.yaml", `\{alertname="(\w+)", alertstate="firing"`)...)
	quiet := quietWith(t)
	for alert, metrics := range alertMetrics(t) {
		if !slices.Contains(fires, alert) {
			t.Errorf("no test has %s fire", alert)
		}
		if !slices.ContainsFunc(quiet[alert], func(series []string) bool { return haveAll(series, metrics) }) {
			t.Errorf("no test has %s stay quiet with series of all of %q", alert, metrics)
		}
	}
}

// alertMetrics returns what each alert looks at. Of what is recorded, the name is the one that it begins with.
func alertMetrics(t *testing.T) map[string][]string {
	t.Helper()
	var rules struct {
		Groups []struct {
			Rules []struct{ Alert, Expr string }
		}
	}
	parse(t, "../docs/prometheus-alerts.yaml", &rules)
	found := make(map[string][]string)
	for _, group := range rules.Groups {
		for _, rule := range group.Rules {
			if rule.Alert != "" {
				found[rule.Alert] = regexp.MustCompile(`\breplypath_\w+|\bup\b`).FindAllString(rule.Expr, -1)
			}
		}
	}
	return found
}

// quietWith returns, for each alert, the series of each test that wants it not to fire.
func quietWith(t *testing.T) map[string][][]string {
	t.Helper()
	found := make(map[string][][]string)
	for _, file := range alertTests {
		var of struct {
			Tests []struct {
				Input  []struct{ Series string } `yaml:"input_series"`
				Alerts []struct {
					Name     string `yaml:"alertname"`
					Expected []any  `yaml:"exp_alerts"`
				} `yaml:"alert_rule_test"`
			}
		}
		parse(t, file, &of)
		for _, test := range of.Tests {
			var series []string
			for _, one := range test.Input {
				series = append(series, one.Series)
			}
			for _, alert := range test.Alerts {
				if len(alert.Expected) == 0 {
					found[alert.Name] = append(found[alert.Name], series)
				}
			}
		}
	}
	return found
}

func haveAll(series, metrics []string) bool {
	return !slices.ContainsFunc(metrics, func(metric string) bool {
		return !slices.ContainsFunc(series, func(one string) bool { return strings.HasPrefix(one, metric) })
	})
}

func parse(t *testing.T, file string, to any) {
	t.Helper()
	text := await.Must1[[]byte](t)(os.ReadFile(file))
	if err := yaml.Unmarshal(text, to); err != nil {
		t.Fatalf("%s: %v", file, err)
	}
}

// matches returns the first group of each match in a file.
func matches(t *testing.T, file, pattern string) []string {
	t.Helper()
	text := await.Must1[[]byte](t)(os.ReadFile(file))
	var names []string
	for _, match := range regexp.MustCompile(pattern).FindAllSubmatch(text, -1) {
		names = append(names, string(match[1]))
	}
	return names
}
