// SPDX-License-Identifier: Apache-2.0

package gather

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"replypath/bpf"
	"replypath/loader/config"
	"replypath/loader/counters"
	"replypath/loader/doctor/snapshot"
	"replypath/loader/flows"
	"replypath/loader/pins"
	"replypath/loader/status"
	"replypath/test/await"
	"replypath/test/testhost"
)

func TestInUnit(t *testing.T) {
	for groups, want := range map[string]bool{
		"0::/system.slice/replypath.service\n":                   true,
		"1:name=systemd:/system.slice/replypath.service\n0::/\n": true,
		"0::/user.slice/user-0.slice/session-1.scope\n":          false,
		"0::/system.slice/replypath.service.d\n":                 false,
		"0::/system.slice/my-replypath.service\n":                false,
		"": false,
	} {
		if got := inUnit(groups); got != want {
			t.Errorf("%q: %v", groups, got)
		}
	}
}

// TestDestination reads the destination of packets, and of nothing else.

// TestConfigurationExamined: what is examined is what is in force, flags included, whatever the file says by now; a
// file that is named comes first.
func TestConfigurationExamined(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "replypath.yaml")
	loaded := func(text string, o config.Overrides) *config.Config {
		cfg, err := config.Parse(path, []byte(text))
		await.Must(t, err)
		await.Must(t, o.Apply(cfg))
		return cfg
	}
	trial := config.Overrides{Enforce: true}
	observing := config.Overrides{Interfaces: []string{"eth1"}, Observe: true}
	for _, test := range []struct {
		name, file string // empty: there is none
		record     []byte
		given      *config.Config
		want       *config.Config
		said       string
		wrong      bool
	}{
		{name: "flags", file: "mode: enforce\n", record: loaded("", observing).Encode(), want: loaded("", observing)},
		{name: "a trial's", file: "mode: observe\n", record: loaded("mode: observe", trial).Encode(), want: loaded("mode: observe", trial)},
		{name: "another file", file: "follow: latest\n", record: loaded("", observing).Encode(), want: loaded("", observing),
			said: "it has changed since it was loaded"},
		{name: "a bad file", file: "mode: 1\n", record: loaded("", observing).Encode(), want: loaded("", observing),
			said: path + ":1: mode: 1 is not one of enforce, observe", wrong: true},
		{name: "bad in two ways", file: "mode: 1\nfollow: 2\n", record: loaded("", observing).Encode(), want: loaded("", observing),
			said: path + ":1: mode: 1 is not one of enforce, observe; " + path + ":2: follow: ", wrong: true},
		{name: "gone", record: loaded("follow: latest", observing).Encode(), want: loaded("follow: latest", observing),
			said: "it is gone: put it back, an empty one will do", wrong: true},
		{name: "by an earlier version", file: "follow: latest\n", want: loaded("follow: latest", config.Overrides{})},
		{name: "by a later version", file: "follow: latest\n", record: []byte(`{"version":9}`), want: loaded("follow: latest", config.Overrides{})},
		{name: "a file is named", file: "follow: latest\n", record: loaded("", observing).Encode(), given: config.Default(), want: config.Default()},
	} {
		t.Run(test.name, func(t *testing.T) {
			await.Must(t, os.RemoveAll(path))
			if test.file != "" {
				await.Must(t, os.WriteFile(path, []byte(test.file), 0o600))
			}
			g := &gatherer{
				Options: Options{Config: test.given, PinDir: filepath.Join(dir, "none")}, host: &snapshot.Host{},
				journal: &pins.Journal{ConfigPath: path, Config: test.record},
			}
			await.Must(t, g.configuration())
			await.Same(t, "configuration", string(test.want.Encode()), string(g.host.Config.Encode()))
			if f := g.host.InForce; f.Wrong != test.wrong || test.said != "" && f.File[:len(test.said)] != test.said || test.said == "" && f.File != "" {
				t.Errorf("the file: %q, wrong %v", f.File, f.Wrong)
			}
		})
	}
}

// TestWrongWays: what left wrongly lately, and whose flows still do, is so now; what ended, or has its cause removed, is over; a few
// packets are none, and what was meant once and is over is nothing, but for tunnels.
func TestWrongWays(t *testing.T) {
	const now, past, ancient = time.Minute, time.Hour, 25 * time.Hour
	wrong := func(reason string, packets uint64, ago time.Duration) counters.Wrong {
		return counters.Wrong{From: "eth0", To: "eth1", Reason: reason, Packets: packets, Last: time.Now().Add(-ago)}
	}
	for _, test := range []struct {
		name    string
		wrong   counters.Wrong
		still   bpf.DatapathOutcome // of a flow
		observe bool
		down    bool
		is      string // "now", "over", or nothing
	}{
		{"lately", wrong("mtu", 9, now), bpf.DatapathOutcomeOUTCOME_MTU, false, false, "now"},
		{"lately, and right by now", wrong("mtu", 9, now), 0, false, false, "over"},
		{"of another reason by now", wrong("mtu", 9, now), bpf.DatapathOutcomeOUTCOME_NO_NEXT_HOP, false, false, "over"},
		{"lost", wrong(snapshot.ReasonLost, 9, now), bpf.DatapathOutcomeOUTCOME_LOST_LINK_DOWN, false, false, "now"},
		{"a few", wrong("mtu", 3, now), bpf.DatapathOutcomeOUTCOME_MTU, false, false, ""},
		{"an hour ago", wrong("mtu", 9, past), 0, false, false, "over"},
		{"long ago", wrong("mtu", 9, ancient), 0, false, false, ""},
		{"observed", wrong(snapshot.ReasonObserve, 1, now), bpf.DatapathOutcomeOUTCOME_OBSERVE, true, false, "now"},
		{"observed, and forgotten", wrong(snapshot.ReasonObserve, 1, now), 0, true, false, ""},
		{"observed until now", wrong(snapshot.ReasonObserve, 99, now), bpf.DatapathOutcomeOUTCOME_OBSERVE, false, false, ""},
		{"down", wrong(snapshot.ReasonLinkDown, 9, now), bpf.DatapathOutcomeOUTCOME_LINK_DOWN, false, true, "now"},
		{"up again", wrong(snapshot.ReasonLinkDown, 9, now), bpf.DatapathOutcomeOUTCOME_LINK_DOWN, false, false, "over"},
		{"a tunnel", wrong(snapshot.ReasonTunnel, 1, past), 0, false, false, "over"},
	} {
		h := testhost.New()
		h.Enforcing, h.Interfaces[1].Up = map[int]bool{testhost.Eth1: !test.observe}, !test.down
		h.Status = &status.Status{
			Counted:    status.Counted{Wrong: []counters.Wrong{test.wrong}},
			Interfaces: []status.Interface{{Name: "eth1", Recent: flows.Recent{Wrong: map[bpf.DatapathOutcome]int{test.still: 1}}}},
		}
		await.Must(t, (&gatherer{host: h}).wrongWays())
		is := ""
		for _, w := range h.WrongWays {
			is = map[bool]string{false: "now", true: "over"}[w.Over]
		}
		await.Same(t, test.name, test.is, is)
	}
}

// TestReasonOfFlow: what was counted once is no reason any more where it does not hold any more.
func TestReasonOfFlow(t *testing.T) {
	eth := "eth1"
	before := map[way]uint64{
		{from: "eth0", to: "eth1", reason: snapshot.ReasonObserve}: 1000, {from: "eth0", to: "eth1", reason: snapshot.ReasonLinkDown}: 100, {from: "eth0", to: "eth1", reason: "mtu"}: 10, {from: "eth2", to: "eth1", reason: "no_next_hop"}: 5000,
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
