// SPDX-License-Identifier: Apache-2.0

package metrics_test

import (
	"bytes"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	_ "replypath/loader/counters" // declares the metrics
	"replypath/metrics"
	"replypath/test/await"
)

// TestCollectorOutput: names, types, help and labels are those that busy.prom has, which shows every metric.
func TestCollectorOutput(t *testing.T) {
	want := await.Must1[[]byte](t)(os.ReadFile("testdata/busy.prom"))
	want = bytes.ReplaceAll(want, []byte("GOVERSION"), []byte(runtime.Version()))
	parser := expfmt.NewTextParser(model.UTF8Validation)
	shown := await.Must1[map[string]*dto.MetricFamily](t)(parser.TextToMetricFamilies(bytes.NewReader(want)))
	var source fixed
	for _, f := range metrics.Families() {
		switch {
		case shown[f.Name] == nil:
			t.Errorf("%s has no series", f.Name)
		case f.Name != "replypath_build_info": // the collector's own
			source.add(f, shown[f.Name].Metric)
		}
	}
	c := metrics.NewCollector(&source, "1.2.3")
	await.Must(t, testutil.CollectAndCompare(c, bytes.NewReader(want)))
	for _, p := range await.Must1[[]promlint.Problem](t)(testutil.CollectAndLint(c)) {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
}

// fixed is a source that always shows the same.
type fixed struct {
	metrics.Source // whose other methods nobody calls

	samples metrics.Samples
}

func (f *fixed) Snapshot() (metrics.Samples, error) { return f.samples, nil }

// add adds series with their labels in the order of the family's.
func (f *fixed) add(family *metrics.Family, series []*dto.Metric) {
	for _, one := range series {
		labels := make([]string, len(one.Label))
		for _, l := range one.Label {
			// The kernel allows any bytes.
			labels[slices.Index(family.Labels, l.GetName())] = strings.ReplaceAll(l.GetValue(), "\uFFFD", "\xff")
		}
		f.samples.Add(family, one.GetCounter().GetValue()+one.GetGauge().GetValue(), labels...)
	}
}
