// SPDX-License-Identifier: Apache-2.0

package metrics_test

import (
	"bytes"
	_ "embed"
	"os"
	"slices"
	"strings"
	"testing"
	"text/template"

	"replypath/metrics"
	"replypath/test/await"
)

const reference = "../docs/METRICS.md"

// The reference in docs is that of this source. The test also writes it, with UPDATE_DOCS: what makes it is no part of
// the program.
func TestReferenceIsCurrent(t *testing.T) {
	want := render(t)
	if os.Getenv("UPDATE_DOCS") != "" {
		await.Must(t, os.WriteFile(reference, want, 0o644))
	}
	got := await.Must1[[]byte](t)(os.ReadFile(reference))
	await.Same(t, "docs/METRICS.md is not what the code says; run make generate", string(want), string(got))
}

//go:embed testdata/METRICS.md.tmpl
var page string

func render(t *testing.T) []byte {
	t.Helper()
	labels := func(names []string) string {
		if len(names) == 0 {
			return "-"
		}
		return "`" + strings.Join(names, "`, `") + "`"
	}
	var b bytes.Buffer
	said := make(map[metrics.Reason]bool)
	meaning := func(r metrics.Reason) string {
		if said[r] {
			return "as above"
		}
		said[r] = true
		return r.Meaning
	}
	tmpl, err := template.New("METRICS.md").Funcs(template.FuncMap{"labels": labels, "meaning": meaning}).Parse(page)
	if err == nil {
		err = tmpl.Execute(&b, metrics.Families())
	}
	await.Must(t, err)
	return b.Bytes()
}

func TestReferenceNamesEveryLabel(t *testing.T) {
	for _, d := range metrics.Families() {
		for _, label := range d.Labels {
			described := strings.Contains(page, "\n| `"+label+"` |")
			if !described && !slices.Contains([]string{"version", "goversion"}, label) {
				t.Errorf("label %s of %s is not described", label, d.Name)
			}
		}
	}
}

// An alert on a metric that does not exist never fires, and neither does one on what no rule records. A panel without a
// metric is empty.
func TestAlertsUseExistingMetrics(t *testing.T) {
	const rules, dashboard = "../docs/prometheus-alerts.yaml", "../docs/grafana-dashboard.json"
	recorded := matches(t, rules, `(?m)^ +- record: (\S+)$`)
	for _, file := range []string{rules, dashboard} {
		names := matches(t, file, `\b((?:\w+:)?replypath_\w+(?::\w+)?)`)
		if len(names) == 0 {
			t.Fatalf("%s uses no metric at all", file)
		}
		for _, name := range names {
			is := slices.ContainsFunc(metrics.Families(), func(f *metrics.Family) bool { return f.Name == name })
			if !is && (file == dashboard || !slices.Contains(recorded, name)) {
				t.Errorf("%s: there is no metric %s", file, name)
			}
		}
	}
}
