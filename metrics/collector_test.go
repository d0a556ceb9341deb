// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"bytes"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	"replypath/test/await"
)

func TestCollectorOutput(t *testing.T) {
	for name, snapshot := range map[string]*Snapshot{"quiet": quiet(), "busy": busy()} {
		t.Run(name, func(t *testing.T) {
			want := await.Must1[[]byte](t)(os.ReadFile(filepath.Join("testdata", name+".prom")))
			want = bytes.ReplaceAll(want, []byte("GOVERSION"), []byte(runtime.Version()))
			c := NewCollector(&fakeSource{snapshot: snapshot}, "1.2.3")
			await.Must(t, testutil.CollectAndCompare(c, bytes.NewReader(want)))
			for _, p := range await.Must1[[]promlint.Problem](t)(testutil.CollectAndLint(c)) {
				t.Errorf("%s: %s", p.Metric, p.Text)
			}
		})
	}
}

// Every metric that is described is shown by a host that has it all.
func TestCollectorShowsAllFamilies(t *testing.T) {
	c := NewCollector(&fakeSource{snapshot: busy(), findings: []Finding{{"gateway", "error", "it is held"}}}, "1.2.3")
	for _, d := range families {
		if testutil.CollectAndCount(c, d.Name) == 0 {
			t.Errorf("%s has no series", d.Name)
		}
	}
}
