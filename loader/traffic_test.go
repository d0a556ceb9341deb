// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"slices"
	"testing"

	"replypath/loader/counters"
	"replypath/loader/status"
	"replypath/test/topology"
)

func (b *bed) traffic() *status.Traffic {
	b.Helper()
	var traffic *status.Traffic
	b.inside(func() (err error) {
		traffic, err = status.ReadTraffic(b.dir, b.maps())
		return err
	})
	return traffic
}

// What is read from the pins is what the daemon knows, and goes on without it:
// interfaces are renamed, go down and vanish then without anybody's notice.
func TestTraffic(t *testing.T) {
	s := newS1(t, topology.S1Options{})
	b := newBed(t, s.B.Host)
	r := b.start(nil)
	pingB(t, s)
	pairs := r.counters().Pairs
	traffic := b.traffic()
	if !traffic.Daemon.Running || traffic.Mode != "enforce" || len(traffic.Interfaces) != 2 {
		t.Errorf("%+v", traffic)
	}
	if len(pairs) == 0 || len(traffic.Uncorrected) != len(pairs)*len(counters.UncorrectedReasons()) {
		t.Errorf("%d pairs, %d reasons for packets that were not corrected", len(pairs), len(traffic.Uncorrected))
	}
	for _, p := range pairs {
		if !slices.Contains(traffic.Pairs, p) {
			t.Errorf("no %+v among %+v", p, traffic.Pairs)
		}
	}
	r.stop()
	if i := named(b.traffic().Interfaces, "eth1"); i == nil || !i.Up || !i.Attached || *i.Mechanism != "tcx" {
		t.Errorf("without a daemon: %+v", i)
	}
	b.ip("link set eth1 down\nlink set eth1 name eth9\n")
	traffic = b.traffic()
	if i := named(traffic.Interfaces, "eth9"); i == nil || i.Up || !i.Attached || traffic.Daemon.Running {
		t.Errorf("renamed: %+v of %+v", i, traffic)
	}
	for _, p := range pairs {
		p.To = "eth9"
		if !slices.Contains(traffic.Pairs, p) {
			t.Errorf("renamed: no %+v among %+v", p, traffic.Pairs)
		}
	}
	b.ip("link del eth9\n")
	if i := named(b.traffic().Interfaces, "eth1"); i == nil || i.Up || i.Attached || i.Mechanism != nil {
		t.Errorf("gone: %+v", i)
	}
}
