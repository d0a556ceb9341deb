// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"bytes"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
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

// The names and labels that alerts and dashboards are written against.
func TestDescriptions(t *testing.T) {
	const pair = "from_interface,to_interface,family,protocol"
	want := map[string]string{
		"replypath_asymmetric_packets_total":                     pair,
		"replypath_asymmetric_flows_total":                       pair,
		"replypath_corrected_packets_total":                      pair,
		"replypath_corrected_bytes_total":                        pair,
		"replypath_corrected_flows_total":                        pair,
		"replypath_uncorrected_packets_total":                    pair + ",reason",
		"replypath_lost_packets_total":                           pair + ",reason",
		"replypath_originated_packets_total":                     pair + ",outcome",
		"replypath_originated_flows_total":                       pair + ",outcome",
		"replypath_originated_routed_packets_total":              pair + ",reason",
		"replypath_uncounted_packets_total":                      "",
		"replypath_unparsed_packets_total":                       "reason",
		"replypath_ignored_packets_total":                        "reason",
		"replypath_flows":                                        "table",
		"replypath_flow_table_capacity":                          "table",
		"replypath_lasting_flows":                                "table",
		"replypath_flow_admissions_total":                        "table",
		"replypath_flow_readmissions_total":                      "table",
		"replypath_flow_insert_failures_total":                   "table",
		"replypath_flow_moves_total":                             "protocol",
		"replypath_flow_moves_refused_total":                     "reason",
		"replypath_ways_learnt_total":                            "way",
		"replypath_source_repairs_total":                         "family",
		"replypath_interface_up":                                 "interface",
		"replypath_interface_attached":                           "interface,hook,mechanism",
		"replypath_gateway_reachable":                            "interface,family,gateway",
		"replypath_rp_filter":                                    "interface",
		"replypath_rp_filter_drops_total":                        "",
		"replypath_fallback_active":                              "family",
		"replypath_fallback_dropped_packets_total":               "family",
		"replypath_host_repairs_total":                           "object",
		"replypath_findings":                                     "check,severity",
		"replypath_mode":                                         "mode",
		"replypath_config_last_reload_successful":                "",
		"replypath_config_last_reload_success_timestamp_seconds": "",
		"replypath_kernel_feature":                               "feature",
		"replypath_build_info":                                   "version,goversion",
	}
	var got []string
	for _, d := range families {
		got = append(got, d.Name)
		labels, ok := want[d.Name]
		if !ok {
			t.Errorf("%s is new: add it here", d.Name)
		} else if l := strings.Join(d.Labels, ","); l != labels {
			t.Errorf("%s has labels %q, want %q", d.Name, l, labels)
		}
	}
	for name := range want {
		if !slices.Contains(got, name) {
			t.Errorf("%s is missing", name)
		}
	}
}
