// SPDX-License-Identifier: Apache-2.0

package config

import (
	"slices"
	"testing"
)

func TestWarnings(t *testing.T) {
	for text, want := range map[string][]string{
		`interfaces: [{name: "enp129s0f1np1v*"}]`: nil,
		"interfaces:\n- name: eth0\n- {name: eth1, next_hop: last-hop, gateways: [10.4.0.1]}\n": {
			"interfaces[1].gateways: next_hop last-hop sends nothing to them: use auto or gateway if it should"},

		"ignore_interfaces: [eth9]":                                 nil,
		`{interfaces: [{name: "eth*"}], ignore_interfaces: [eth9]}`: nil,
		"interfaces: [{name: docker0}]":                             nil,
		`{interfaces: [{name: eth0}, {name: eth1}], ignore_interfaces: ["eth*"]}`: {
			"ignore_interfaces: has no effect, as interfaces lists every managed one by its name"},
		`{interfaces: [{name: "eth*"}, {name: eth1}], ignore_interfaces: [eth9, eth1, eth9]}`: {
			`ignore_interfaces[1]: "eth1" is managed all the same, as interfaces[1] names it`, `ignore_interfaces[2]: "eth9" is listed twice`},

		`exclude: [10.0.0.0/8, "2001:db8::/32", {self_port: 53}, {protocol: tcp, self_port: 54}, {peer: 0.0.0.0/0, protocol: udp}, {self: 10.0.0.0/9}]`: nil,
		`exclude: [0.0.0.0/0, {self: "::/0"}, {peer: "::/0", self: "2001:db8::/32"}]`: {
			"exclude[0]: excludes every ipv4 flow", "exclude[1]: excludes every ipv6 flow",
			"exclude[2]: has no effect, as exclude[1] excludes all of it"},
		`exclude: [10.0.0.0/8, 10.1.0.0/16, {peer: 10.2.0.1, protocol: tcp}, {self_port: 53}, {protocol: udp, self_port: 53}, {self_port: 53}, 10.0.0.0/7]`: {
			"exclude[1]: has no effect, as exclude[0] excludes all of it", "exclude[2]: has no effect, as exclude[0] excludes all of it",
			"exclude[4]: has no effect, as exclude[3] excludes all of it", "exclude[5]: has no effect, as exclude[3] excludes all of it"},
		"exclude: [{peer: 10.0.0.1, protocol: vrrp}]": {"exclude[0].protocol: has no effect, as protocols does not list 112"},

		"repair_udp_source: true":                     nil,
		"protocols: [tcp]":                            nil,
		"{protocols: [tcp], repair_udp_source: true}": {"repair_udp_source: has no effect, as protocols does not list udp"},
		"addresses: [198.51.100.7]":                   nil,
		"{addresses: [198.51.100.7], scope: all}":     {"addresses: has no effect, as scope: all serves every address"},
		`metrics: {listen: ""}`:                       nil,
		`metrics: {listen: "", web_config_file: /etc/web.yaml}`: {
			"metrics.web_config_file: has no effect, as metrics.listen is empty"},
	} {
		if got := mustParse(t, text).Warnings(); !slices.Equal(got, want) {
			t.Errorf("%s: got %q\nwant %q", text, got, want)
		}
	}
	if got := Default().Warnings(); len(got) != 0 {
		t.Errorf("the default is warned of: %q", got)
	}
}
