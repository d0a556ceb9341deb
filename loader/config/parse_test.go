// SPDX-License-Identifier: Apache-2.0

package config

import (
	"errors"
	"log/slog"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"unicode"

	"github.com/google/go-cmp/cmp/cmpopts"
	"go.yaml.in/yaml/v3"

	"replypath/test/await"
)

// wantSame compares two configurations, but for where they come from.
func wantSame(t *testing.T, what string, want, got *Config) {
	t.Helper()
	await.Same(t, what, want, got, cmpopts.IgnoreTypes(Origin{}))
}

func mustParse(t *testing.T, text string) *Config {
	t.Helper()
	config, err := Parse("replypath.yaml", []byte(text))
	if err != nil {
		t.Fatalf("Parse(%q): %v", text, err)
	}
	return config
}

func TestParseWithoutKeysIsDefault(t *testing.T) {
	for _, text := range []string{"", "\n", "# nothing but a comment\n", "---\n", "--- {}\n", "{}", "~", "interfaces:\nmode:\nmetrics:\nlog: {level: ~}\n"} {
		wantSame(t, text, Default(), mustParse(t, text))
	}
}

func TestParseEveryKey(t *testing.T) {
	got := mustParse(t, `
interfaces:
  - {name: eth1, mode: observe, next_hop: gateway, gateways: [10.4.0.1, "fe80::1"]}
  - {name: "ens*", next_hop: last-hop, host_model: weak}
  - name: enp129s0f1np1v1
ignore_interfaces: []
mode: observe
follow: pinned
scope: all
host_model: strong
related: false
addresses: [198.51.100.0/28, 192.0.2.7, "2001:db8:9::5", "2001:db8:a::/64"]
loopback_addresses: symmetric
exclude:
  - 192.0.2.0/24
  - 2001:db8::1
  - {peer: 0.0.0.0/0, self: 10.0.0.1, protocol: 17, self_port: 51820}
  - {self_port: 53}
protocols: [tcp, gre, "112", 255]
flow_table: {max_entries: 0x10000}
fallback_route: false
manage_rp_filter: false
repair_udp_source: false
metrics: {listen: "[::1]:1", web_config_file: /etc/replypath/web.yaml}
log: {level: debug, format: json}
`)
	want := &Config{
		Interfaces: []Interface{
			{Name: "eth1", Mode: ModeObserve, NextHop: NextHopGateway,
				Gateways: []netip.Addr{netip.MustParseAddr("10.4.0.1"), netip.MustParseAddr("fe80::1")}},
			{Name: "ens*", NextHop: NextHopLastHop, HostModel: HostModelWeak},
			{Name: "enp129s0f1np1v1", NextHop: NextHopAuto},
		},
		IgnoreInterfaces: []string{},
		Policy: Policy{
			Mode:      ModeObserve,
			Follow:    FollowPinned,
			Scope:     ScopeAll,
			HostModel: HostModelStrong,
			Addresses: []netip.Prefix{
				netip.MustParsePrefix("198.51.100.0/28"), netip.MustParsePrefix("192.0.2.7/32"),
				netip.MustParsePrefix("2001:db8:9::5/128"), netip.MustParsePrefix("2001:db8:a::/64"),
			},
			LoopbackAddresses: LoopbackSymmetric,
			Exclude: []Exclusion{
				{Peer: netip.MustParsePrefix("192.0.2.0/24")},
				{Peer: netip.MustParsePrefix("2001:db8::1/128")},
				{Peer: netip.MustParsePrefix("0.0.0.0/0"), Self: netip.MustParsePrefix("10.0.0.1/32"), Protocol: 17, SelfPort: 51820},
				{SelfPort: 53},
			},
			Protocols: []uint8{6, 47, 112, 255},
		},
		FlowTable:       FlowTable{MaxEntries: 65536},
		RepairUDPSource: RepairFalse,
		Metrics:         Metrics{Listen: "[::1]:1", WebConfigFile: "/etc/replypath/web.yaml"},
		Log:             Log{Level: slog.LevelDebug, Format: FormatJSON},
	}
	wantSame(t, "parsed", want, got)
}

// What every error has to be, whatever its cause.
func checkError(t *testing.T, err error) {
	t.Helper()
	var ours *Error
	if !errors.Is(err, ErrInvalid) || !errors.As(err, &ours) {
		t.Errorf("%v is no *Error that matches ErrInvalid", err)
	}
	for line := range strings.SplitSeq(err.Error(), "\n") {
		if line == "" || strings.ContainsFunc(line, unicode.IsControl) {
			t.Errorf("%q is not one line for each error", err)
		}
	}
}

// The example shows every key, and sets each but the three lists to its default.
func TestExample(t *testing.T) {
	got := mustParse(t, Example)
	want := Default()
	if len(got.Interfaces) == 0 || len(got.Exclude) == 0 || len(got.Addresses) == 0 {
		t.Error("the example shows no interface, no exclusion or no address")
	}
	got.Interfaces, got.Exclude, got.Addresses = nil, nil, nil
	wantSame(t, "the example", want, got)
	var keys map[string]any
	if err := yaml.Unmarshal([]byte(Example), &keys); err != nil {
		t.Fatal(err)
	}
	names, _ := keysOf(reflect.ValueOf(want).Elem())
	for _, name := range names {
		if keys[name] == nil {
			t.Errorf("the example lacks %s", name)
		}
	}
}

// TestRules: every list and every value has a rule, which says what it has to, and every rule a key.
func TestRules(t *testing.T) {
	seen := make(map[string]bool)
	var collect func(target reflect.Value, path string)
	collect = func(target reflect.Value, path string) {
		seen[path] = true
		fields := make(map[string]reflect.Value)
		if target.Kind() == reflect.Struct {
			_, fields = keysOf(target)
		}
		rule := rules[path]
		switch {
		case len(fields) > 0:
			for name, field := range fields {
				collect(field, joinKey(path, name))
			}
		case target.Kind() == reflect.Slice:
			if rule.want == "" || rule.most == 0 || rule.remedy == "" {
				t.Errorf("%s: the rule lacks what it wants, how many, or the remedy", path)
			}
			collect(reflect.New(target.Type().Elem()).Elem(), path+"[]")
		case rule.read == nil:
			t.Errorf("%s: no rule reads it", path)
		}
	}
	collect(reflect.ValueOf(Default()).Elem(), "")
	for path := range rules {
		if !seen[path] {
			t.Errorf("%s: a rule of no key", path)
		}
	}
}

func TestOverrides(t *testing.T) {
	const file = `
interfaces:
- {name: "eth*", mode: enforce, next_hop: last-hop}
- {name: eth1, next_hop: gateway}
metrics: {listen: ":1"}
`
	listen := ""
	config := mustParse(t, file)
	overrides := Overrides{Interfaces: []string{"eth1", "eth2", "ens3", "eth1"}, Observe: true, Listen: &listen}
	if err := overrides.Apply(config); err != nil {
		t.Fatal(err)
	}
	want := mustParse(t, file)
	want.Interfaces = []Interface{
		{Name: "eth1", NextHop: NextHopGateway},
		{Name: "eth2", NextHop: NextHopLastHop},
		{Name: "ens3", NextHop: NextHopAuto},
	}
	want.Mode = ModeObserve
	want.Metrics.Listen = ""
	want.Flags = overrides
	wantSame(t, "overridden", want, config)
}

func TestWarnings(t *testing.T) {
	for text, want := range map[string][]string{
		`exclude: [10.0.0.0/8, "2001:db8::/32", {self_port: 53}, {peer: 0.0.0.0/0, protocol: udp}, {peer: 0.0.0.0/0, self_port: 53}]`: nil,
		`exclude: [0.0.0.0/0, {self: "::/0"}, {peer: "::/0", self: "2001:db8::/32"}, {peer: "::/0", self: "::/0"}]`: {
			"exclude[0]: excludes every ipv4 flow", "exclude[1]: excludes every ipv6 flow", "exclude[3]: excludes every ipv6 flow"},
	} {
		await.Same(t, text, want, mustParse(t, text).Warnings())
	}
	await.Same(t, "warnings of the default", nil, Default().Warnings())
}
