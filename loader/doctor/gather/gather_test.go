// SPDX-License-Identifier: Apache-2.0

package gather

import (
	"maps"
	"os"
	"path/filepath"
	"testing"
	"time"

	"replypath/loader/config"
	"replypath/loader/doctor/snapshot"
	"replypath/loader/flows"
	"replypath/loader/pins"
	"replypath/loader/status"
	"replypath/metrics"
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
