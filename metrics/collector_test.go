// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"bytes"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"time"

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
	c := NewCollector(&fakeSource{snapshot: busy()}, "1.2.3")
	for _, d := range families {
		if testutil.CollectAndCount(c, d.Name) == 0 {
			t.Errorf("%s has no series", d.Name)
		}
	}
}

// fakeSource is a Source whose answers a test sets.
type fakeSource struct {
	mu       sync.Mutex
	snapshot *Snapshot
	lacking  []string
	err      error
	age      time.Duration // of the last pass
}

func (s *fakeSource) Passed() time.Time { return time.Now().Add(-s.age) }

func (s *fakeSource) Snapshot() (*Snapshot, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.snapshot, s.err
}

func (s *fakeSource) Lacking() ([]string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lacking, s.err
}

func (s *fakeSource) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err = err
}

// quiet is what a host shows on which nothing has happened yet.
func quiet() *Snapshot {
	return &Snapshot{
		Tables:        []Table{{Name: "established", Capacity: 262144}},
		Outbound:      Notes{Capacity: 65536},
		Mode:          ModeEnforce,
		ReloadSuccess: time.Unix(1700000000, 0),
	}
}

// busy is what a host shows that has every kind of figure.
func busy() *Snapshot {
	strict, drops := 1, uint64(17)
	return &Snapshot{
		Pairs: []PairCounters{
			{
				Pair:              Pair{"eth0", "eth1", "ipv4", "tcp"},
				AsymmetricPackets: 111, AsymmetricFlows: 4,
				CorrectedPackets: 100, CorrectedBytes: 10000, CorrectedFlows: 3,
			},
			{Pair: Pair{"", "eth1", "ipv6", "other"}, AsymmetricPackets: 3, AsymmetricFlows: 2}, // from replypath0
		},
		Uncorrected: []Uncorrected{
			{Pair{"eth0", "eth1", "ipv4", "tcp"}, "link_down", 10},
			{Pair{"eth0", "eth1", "ipv4", "tcp"}, "mtu", 1},
			{Pair{"", "eth1", "ipv6", "other"}, "no_next_hop", 3},
		},
		Lost: []Uncorrected{{Pair{"eth0", "eth1", "ipv4", "tcp"}, "unseen", 3}},
		Originated: []Originated{{
			Pair: Pair{"eth0", "eth1", "ipv4", "tcp"}, Moved: Sent{20, 4}, Routed: Sent{7, 2},
			Reasons: map[string]uint64{"weak_host": 5, "observe": 2},
		}},
		Uncounted:    4,
		Unparsed:     map[string]uint64{"truncated": 5, "new_reason": 1},
		Ignored:      map[string]uint64{"excluded": 6},
		Moves:        map[string]uint64{"tcp": 8, "other": 1},
		MovesRefused: map[string]uint64{"contested": 9},
		WaysLearnt:   map[string]uint64{"rule": 21, "direct-return": 22},
		Tables: []Table{
			{Name: "half_open", Flows: 1, Capacity: 65536, Admissions: 2, InsertFailures: 3},
			{Name: "established", Flows: 10, Capacity: 262144, Admissions: 20, Readmissions: 2},
		},
		Outbound:      Notes{Capacity: 65536, Admissions: 30},
		SourceRepairs: PerFamily{IPv4: 12, IPv6: 13},
		Interfaces: []Interface{
			{
				Name: "eth0", Up: true, RPFilter: &strict,
				Hooks: []Hook{{"ingress", "tcx", true}, {"egress", "tcx", true}},
			},
			{
				Name:  "eth\xff", // the kernel allows it
				Hooks: []Hook{{"ingress", "clsact", true}, {"egress", "", false}},
			},
		},
		Gateways: []Gateway{
			{"eth0", netip.MustParseAddr("10.0.0.1"), true},
			{"eth0", netip.MustParseAddr("::ffff:10.0.0.1"), false},
			{"eth0", netip.MustParseAddr("fe80::1%eth0"), false},
		},
		RPFilterDrops:   &drops,
		FallbackActive:  Families{IPv6: true},
		FallbackDropped: PerFamily{IPv4: 14, IPv6: 15},
		HostRepairs:     map[string]uint64{"route": 1, "sysctl": 2, "program": 3, "neighbour": 4},
		Mode:            ModeObserve,
		ReloadFailed:    true,
		ReloadSuccess:   time.UnixMilli(1700000000500),
		Features:        []Feature{{"tcx", true}, {"check_mtu", false}},
		Requests:        []Requests{{"eth0", 219, 3, 2, 1}},
		Findings:        []Finding{{"gateway", "error"}, {"gateway", "error"}},
	}
}
