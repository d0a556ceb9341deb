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

// TestLost: what is on its way between two counters is not lost, nor what goes as routed.
func TestLost(t *testing.T) {
	at := way{"eth0", "eth1", snapshot.ReasonLost}
	for _, test := range []struct {
		name          string
		before, after *sample
		want          map[way]uint64
	}{
		{"nothing", counted(9, 0, nil), counted(9, 0, nil), nil},
		{"all is seen", counted(9, 9, nil), counted(99, 99, nil), nil},
		{"some is on its way", counted(9, 9, nil), counted(999, 900, nil), nil},
		{"the first are on their way", counted(9, 9, nil), counted(12, 9, nil), nil},
		{"it went as routed", counted(9, 0, map[string]uint64{"observe": 9}), counted(99, 0, map[string]uint64{"observe": 90, "mtu": 9}), nil},
		{"counted while it was read", counted(9, 0, nil), counted(19009, 0, map[string]uint64{"observe": 18980}), nil},
		{"lost", counted(9, 9, map[string]uint64{"mtu": 1}), counted(20, 9, map[string]uint64{"mtu": 2}), map[way]uint64{at: 10}},
	} {
		got := lost(test.before, test.after, fewLost)
		if !maps.Equal(got, test.want) {
			t.Errorf("%s: %v, not %v", test.name, got, test.want)
		}
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

// counted is of what the kernel would send by eth0, and belongs to eth1.
func counted(asymmetric, corrected uint64, uncorrected map[string]uint64) *sample {
	pair := metrics.Pair{From: "eth0", To: "eth1"}
	traffic := &status.Traffic{Pairs: []metrics.PairCounters{{Pair: pair, AsymmetricPackets: asymmetric, CorrectedPackets: corrected}}}
	for reason, packets := range uncorrected {
		traffic.Uncorrected = append(traffic.Uncorrected, metrics.Uncorrected{Pair: pair, Reason: reason, Packets: packets})
	}
	return newSample(time.Time{}, traffic)
}
