package main

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"replypath/metrics"
)

func TestReferenceIsCurrent(t *testing.T) {
	want, err := render(metrics.Descriptions())
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile("../../../docs/METRICS.md")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("docs/METRICS.md is not what the code says (-want +got); run make generate:\n%s", diff)
	}
}

func TestReferenceNamesEveryLabel(t *testing.T) {
	for _, d := range metrics.Descriptions() {
		for _, label := range d.Labels {
			described := strings.Contains(page, "\n| `"+label+"` |")
			if !described && !slices.Contains([]string{"version", "goversion"}, label) {
				t.Errorf("label %s of %s is not described", label, d.Name)
			}
		}
	}
}

// An alert on a metric that does not exist never fires.
func TestAlertsUseExistingMetrics(t *testing.T) {
	rules, err := os.ReadFile("../../../docs/prometheus-alerts.yaml")
	if err != nil {
		t.Fatal(err)
	}
	names := regexp.MustCompile(`\breplypath_\w+`).FindAllString(string(rules), -1)
	if len(names) == 0 {
		t.Fatal("no metric is used at all")
	}
	for _, name := range names {
		if !slices.ContainsFunc(metrics.Descriptions(), func(d metrics.Description) bool { return d.Name == name }) {
			t.Errorf("there is no metric %s", name)
		}
	}
}
