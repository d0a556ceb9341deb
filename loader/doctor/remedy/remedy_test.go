// SPDX-License-Identifier: Apache-2.0

package remedy

import (
	"net/netip"
	"strings"
	"testing"

	"replypath/loader/config"
	"replypath/loader/doctor/snapshot"
	"replypath/test/testhost"
)

func TestConfigureInterface(t *testing.T) {
	entries := func(list ...config.Interface) []config.Interface { return list }
	const lastHop = "next_hop: last-hop"
	for _, test := range []struct {
		name     string
		entries  []config.Interface
		who, key string
		want     string
	}{
		{"found, changed", nil, "eth0", lastHop, "set interfaces: [{name: eth0, next_hop: last-hop}, {name: eth1}]"},
		{"found, new", nil, "br0", "", "set interfaces: [{name: eth0}, {name: eth1}, {name: br0}]"},
		{"listed, changed", entries(config.Interface{Name: "eth0"}, config.Interface{Name: "eth1", Mode: config.ModeObserve}), "eth1", lastHop,
			"set next_hop: last-hop for name: eth1 under interfaces"},
		{"listed by another name", entries(config.Interface{Name: "wan"}), "eth1", lastHop, "set next_hop: last-hop for name: wan under interfaces"},
		{"listed by a glob", entries(config.Interface{Name: "eth*", Mode: config.ModeObserve, Gateways: []netip.Addr{testhost.Address("10.4.0.1"), testhost.Address("fe80::1")}}), "eth1", lastHop,
			"add {name: eth1, next_hop: last-hop, mode: observe, gateways: [10.4.0.1, fe80::1]} under interfaces"},
		{"not listed", entries(config.Interface{Name: "eth0"}), "1e3", lastHop, `add {name: "1e3", next_hop: last-hop} under interfaces`},
	} {
		h := testhost.New()
		h.Config.Interfaces, h.Interfaces[1].AltNames = test.entries, []string{"wan"}
		got := ConfigureInterface(h, test.who, test.key)
		test.want += " in /etc/replypath/replypath.yaml, then systemctl reload replypath"
		wantEntry(t, got)
		if got != test.want {
			t.Errorf("%s: %q, not %q", test.name, got, test.want)
		}
	}
}

// wantEntry wants what is printed to be read as it is meant, where it is a list.
func wantEntry(t *testing.T, fix string) {
	t.Helper()
	text, _, _ := strings.Cut(strings.TrimPrefix(fix, "set "), " in /etc")
	if rest, ok := strings.CutPrefix(text, "add "); ok {
		text = "interfaces: [" + strings.TrimSuffix(rest, " under interfaces") + "]"
	}
	if !strings.HasPrefix(text, "interfaces: [") {
		return
	}
	if _, err := config.Parse("", []byte(text)); err != nil {
		t.Errorf("%q: %v", text, err)
	}
}

func TestReload(t *testing.T) {
	for _, test := range []struct {
		name, pinDir, path string
		daemon             *snapshot.Daemon
		want               string
	}{
		{"nobody", "", config.DefaultPath, nil, "/etc/replypath/replypath.yaml, then systemctl reload replypath"},
		{"the unit", "", config.DefaultPath, &snapshot.Daemon{PID: 7, Unit: true}, "/etc/replypath/replypath.yaml, then systemctl reload replypath"},
		{"who cannot be told", "", config.DefaultPath, &snapshot.Daemon{}, "/etc/replypath/replypath.yaml, then systemctl reload replypath"},
		{"by hand", "", "/root/my file.yaml", &snapshot.Daemon{PID: 7}, "'/root/my file.yaml', then kill -HUP 7"},
		{"by hand, elsewhere", "/sys/fs/bpf/b", "/b.yaml", &snapshot.Daemon{PID: 7}, "/b.yaml, then kill -HUP 7"},
		{"nobody, elsewhere", "/sys/fs/bpf/b", "/b c.yaml", nil, "'/b c.yaml', then replypath run --pin-dir /sys/fs/bpf/b --config '/b c.yaml'"},
		{"who cannot be told, elsewhere", "/sys/fs/bpf/b", "/b.yaml", &snapshot.Daemon{}, "/b.yaml, then replypath run --pin-dir /sys/fs/bpf/b --config /b.yaml"},
	} {
		h := testhost.New()
		h.PinDir, h.ConfigPath, h.Daemon = test.pinDir, test.path, test.daemon
		if got := Configure(&h.State, "x"); got != "x in "+test.want {
			t.Errorf("%s: %q", test.name, got)
		}
	}
}
