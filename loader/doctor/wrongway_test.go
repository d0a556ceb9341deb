package doctor

import (
	"maps"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"replypath/loader/config"
	"replypath/loader/flows"
)

func wrong(w WrongWay) func(*Host) {
	return func(h *Host) { h.WrongWays = append(h.WrongWays, w) }
}

// waysToWarnOf are wrong ways of every reason.
func waysToWarnOf() (hosts []func(*Host)) {
	for _, reason := range []string{reasonObserve, reasonLinkDown, "no_next_hop", "mtu", "bound_device", reasonLost, "no_header_room", "of later"} {
		hosts = append(hosts, wrong(WrongWay{From: "eth0", To: "eth1", Reason: reason, Flows: 1}))
	}
	return hosts
}

func TestWrongWays(t *testing.T) {
	observed := WrongWay{From: "eth0", To: "eth1", Reason: reasonObserve, Packets: 12, Grown: 3, Took: time.Second, Flows: 2}
	const found = "warning eth1: replies of eth1 leave by eth0: 3 packets within 1.0 s, 2 live flows, 12 packets in all, reason observe: replypath only observes there => "
	const enforce = "replypath mode enforce"
	runTable(t, wrongWays, []wants{
		{"none", nil, nil},
		{"observed", func(h *Host) { wrong(observed)(h); h.Config.Mode = config.ModeObserve },
			[]string{found + enforce + "  # until the next start; for good: mode: enforce in /etc/replypath/replypath.yaml"}},
		{"observed by hand", wrong(observed), []string{found + enforce}},
		{"observed by its own mode", func(h *Host) {
			wrong(observed)(h)
			h.Config.Interfaces = []config.Interface{{Name: "eth1", Mode: config.ModeObserve}}
		},
			[]string{found + enforce + "  # until the next start; for good: mode: enforce for name: eth1 in /etc/replypath/replypath.yaml"}},
		{"observed by a flag", func(h *Host) {
			wrong(observed)(h)
			h.PinDir = "/sys/fs/bpf/x"
			inForce(flags)(h)
		}, []string{found + enforce + " --pin-dir /sys/fs/bpf/x  # until the next start: leave --observe out then"}},
		{"down", wrong(WrongWay{From: "eth0", To: "eth1", Reason: reasonLinkDown, Packets: 5, Grown: 5, Took: time.Second}), []string{
			"error eth1: replies of eth1 leave by eth0: 5 packets within 1.0 s, 5 packets in all, reason link_down: eth1 is down" +
				" ?? ip -details link show dev eth1  # bring it up, or its cable",
		}},
		{"by no interface, without a next hop", wrong(WrongWay{To: "eth1", Reason: "no_next_hop", Packets: 5, Flows: 1}), []string{
			"error eth1: replies of eth1 leave by replypath0: 1 live flows, 5 packets in all, reason no_next_hop: no mac of a next hop is known there" +
				" ?? ip neigh show dev eth1  # name the one to answer through under gateways",
		}},
		{"to another next hop", wrong(WrongWay{From: "eth1", To: "eth1", Reason: "rewrite_failed", Packets: 5, Grown: 1, Took: time.Second}), []string{
			"error eth1: replies of eth1 leave there to another next hop: 1 packets within 1.0 s, 5 packets in all, reason rewrite_failed" +
				" ?? replypath trace --count 10  # what becomes of each",
		}},
		{"lost", wrong(WrongWay{From: "eth0", To: "eth1", Reason: reasonLost, Grown: 9, Took: time.Second}), []string{
			"error eth1: replies of eth1 that the kernel would send by eth0 are handed to eth1 and not seen leaving there: 9 packets within 1.0 s" +
				" ?? tc -s qdisc show dev eth1  # what is dropped there",
		}},
	})
}

func counted(from, to string, asymmetric, corrected uint64, uncorrected map[string]uint64) Counted {
	return Counted{From: from, To: to, Asymmetric: asymmetric, Corrected: corrected, Uncorrected: uncorrected}
}

// TestLost: what is on its way between two counters is not lost, nor what goes as routed.
func TestLost(t *testing.T) {
	at := way{"eth0", "eth1", reasonLost}
	for _, test := range []struct {
		name          string
		before, after Counted
		want          map[way]uint64
	}{
		{"nothing", counted("eth0", "eth1", 9, 0, nil), counted("eth0", "eth1", 9, 0, nil), nil},
		{"all is seen", counted("eth0", "eth1", 9, 9, nil), counted("eth0", "eth1", 99, 99, nil), nil},
		{"some is on its way", counted("eth0", "eth1", 9, 9, nil), counted("eth0", "eth1", 999, 900, nil), nil},
		{"the first are on their way", counted("eth0", "eth1", 9, 9, nil), counted("eth0", "eth1", 12, 9, nil), nil},
		{"it went as routed", counted("eth0", "eth1", 9, 0, map[string]uint64{"observe": 9}), counted("eth0", "eth1", 99, 0, map[string]uint64{"observe": 90, "mtu": 9}), nil},
		{"counted while it was read", counted("eth0", "eth1", 9, 0, nil), counted("eth0", "eth1", 19009, 0, map[string]uint64{"observe": 18980}), nil},
		{"lost", counted("eth0", "eth1", 9, 9, map[string]uint64{"mtu": 1}), counted("eth0", "eth1", 20, 9, map[string]uint64{"mtu": 2}), map[way]uint64{at: 10}},
	} {
		got := lost([]Counted{test.before}, []Counted{test.after})
		if !maps.Equal(got, test.want) {
			t.Errorf("%s: %v, not %v", test.name, got, test.want)
		}
	}
}

// TestReasonOfFlow: what was counted once is no reason any more where it does not hold any more.
func TestReasonOfFlow(t *testing.T) {
	eth := "eth1"
	before := map[way]uint64{
		{"eth0", "eth1", reasonObserve}: 1000, {"eth0", "eth1", reasonLinkDown}: 100, {"eth0", "eth1", "mtu"}: 10, {"eth2", "eth1", "no_next_hop"}: 5000,
	}
	for _, test := range []struct {
		name string
		mode config.Mode
		down bool
		flow flows.Flow
		may  bool
		want string
	}{
		{"observed", config.ModeObserve, false, flows.Flow{Interface: &eth, CorrectedPackets: 7, IdleSeconds: 70}, true, reasonObserve},
		{"enforced, up", config.ModeEnforce, false, flows.Flow{Interface: &eth, IdleSeconds: 1}, true, "mtu"},
		{"enforced, down", config.ModeEnforce, true, flows.Flow{Interface: &eth, IdleSeconds: 1}, true, reasonLinkDown},
		{"enforced and corrected", config.ModeEnforce, true, flows.Flow{Interface: &eth, CorrectedPackets: 1, IdleSeconds: 1}, false, reasonLinkDown},
		{"enforced, of long ago", config.ModeEnforce, true, flows.Flow{Interface: &eth, IdleSeconds: 70}, false, reasonLinkDown},
	} {
		h := newHost()
		h.Enforcing = map[int]bool{eth1: test.mode == config.ModeEnforce}
		h.Interfaces[1].Up = !test.down
		g := &gatherer{host: h}
		if got := g.mayGoWrong(&test.flow); got != test.may {
			t.Errorf("%s: may go wrong: %v", test.name, got)
		}
		if diff := cmp.Diff(test.want, g.reasonFor(&test.flow, "eth0", before)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", test.name, diff)
		}
	}
}
