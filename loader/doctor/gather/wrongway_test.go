// SPDX-License-Identifier: Apache-2.0

package gather

import (
	"maps"
	"testing"
	"time"

	"replypath/loader/config"
	"replypath/loader/doctor/snapshot"
	"replypath/loader/flows"
	"replypath/loader/status"
	"replypath/metrics"
	"replypath/test/await"
	"replypath/test/testhost"
)

// TestGrown: of what is lost a few packets are none, unless nothing else leaves, and what stays as it was is not told, but for
// tunnels.
func TestGrown(t *testing.T) {
	lost, mtu, tunnel := way{"eth0", "eth1", snapshot.ReasonLost}, way{"eth0", "eth1", "mtu"}, way{"eth0", "tun0", snapshot.ReasonTunnel}
	for _, test := range []struct {
		name    string
		was, is map[way]uint64
		want    map[way]uint64
	}{
		{"nothing", map[way]uint64{lost: 9, mtu: 9}, map[way]uint64{lost: 9, mtu: 9}, nil},
		{"a few", map[way]uint64{lost: 9}, map[way]uint64{lost: 12}, nil},
		{"more", map[way]uint64{lost: 9, mtu: 1}, map[way]uint64{lost: 13, mtu: 2}, map[way]uint64{lost: 4, mtu: 1}},
		{"the first", nil, map[way]uint64{lost: 4}, map[way]uint64{lost: 4}},
		{"a tunnel", map[way]uint64{tunnel: 7}, map[way]uint64{tunnel: 7}, map[way]uint64{tunnel: 0}},
	} {
		if got := grown(&sample{uncorrected: test.was}, &sample{uncorrected: test.is}, false); !maps.Equal(got, test.want) {
			t.Errorf("%s: %v, not %v", test.name, got, test.want)
		}
	}
	one, pair := &sample{uncorrected: map[way]uint64{lost: 1}}, way{from: "eth0", to: "eth1"}
	if got := grown(new(sample), one, true); got[lost] != 1 {
		t.Errorf("where nothing leaves: %v", got)
	}
	one.corrected = map[way]uint64{pair: 9}
	if got := grown(new(sample), one, true); len(got) > 0 {
		t.Errorf("where others leave: %v", got)
	}
}

// TestLostIsCounted: what was moved and never seen leaving is told apart from what went as routed.
func TestLostIsCounted(t *testing.T) {
	traffic, pair := new(status.Traffic), metrics.Pair{From: "eth0", To: "eth1"}
	traffic.Uncorrected = []metrics.Uncorrected{{Pair: pair, Reason: "mtu", Packets: 2}, {Pair: pair, Reason: "link_down"}}
	traffic.Lost = []metrics.Uncorrected{{Pair: pair, Reason: "unseen", Packets: 3}, {Pair: pair, Reason: "link_down", Packets: 4}}
	want := map[way]uint64{{"eth0", "eth1", "mtu"}: 2, {"eth0", "eth1", snapshot.ReasonLost}: 7}
	if got := newSample(time.Time{}, traffic).uncorrected; !maps.Equal(got, want) {
		t.Errorf("%v, not %v", got, want)
	}
}

// TestReasonOfFlow: what was counted once is no reason any more where it does not hold any more.
func TestReasonOfFlow(t *testing.T) {
	eth := "eth1"
	before := map[way]uint64{
		{"eth0", "eth1", snapshot.ReasonObserve}: 1000, {"eth0", "eth1", snapshot.ReasonLinkDown}: 100, {"eth0", "eth1", "mtu"}: 10, {"eth2", "eth1", "no_next_hop"}: 5000,
	}
	asymmetric := func(corrected uint64, idle float64) flows.Flow {
		return flows.Flow{Interface: &eth, Asymmetric: true, CorrectedPackets: corrected, IdleSeconds: idle}
	}
	for _, test := range []struct {
		name string
		mode config.Mode
		down bool
		flow flows.Flow
		from string
		want string
	}{
		{"observed", config.ModeObserve, false, asymmetric(7, 70), "eth0", snapshot.ReasonObserve},
		{"enforced, up", config.ModeEnforce, false, asymmetric(0, 1), "eth0", "mtu"},
		{"enforced, down", config.ModeEnforce, true, asymmetric(0, 1), "eth0", snapshot.ReasonLinkDown},
		{"enforced and corrected", config.ModeEnforce, true, asymmetric(1, 1), "eth0", ""},
		{"enforced, of long ago", config.ModeEnforce, true, asymmetric(0, 70), "eth0", ""},
		{"not answered", config.ModeEnforce, false, flows.Flow{Interface: &eth, IdleSeconds: 1}, "eth0", ""},
		{"by an interface without programs", config.ModeEnforce, false, flows.Flow{Interface: &eth, IdleSeconds: 1}, "tun9", snapshot.ReasonNotManaged},
		{"refused", config.ModeObserve, false, flows.Flow{Interface: &eth, IdleSeconds: 1}, flows.Refused, snapshot.ReasonNoRoute},
	} {
		h := testhost.New()
		h.Enforcing = map[int]bool{testhost.Eth1: test.mode == config.ModeEnforce}
		h.Interfaces[1].Up = !test.down
		g := &gatherer{host: h}
		await.Same(t, test.name, test.want, g.reasonFor(&test.flow, test.from, before))
	}
}
