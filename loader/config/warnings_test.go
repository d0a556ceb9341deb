// SPDX-License-Identifier: Apache-2.0

package config

import (
	"slices"
	"testing"
)

func TestWarnings(t *testing.T) {
	for _, test := range []struct {
		name, text string
		want       []string
	}{
		{name: "long glob", text: `interfaces: [{name: "enp129s0f1np1v*"}]`},
		{
			name: "gateways of last-hop",
			text: "interfaces:\n- name: eth0\n- {name: eth1, next_hop: last-hop, gateways: [10.4.0.1]}\n",
			want: []string{"interfaces[1].gateways: next_hop last-hop sends nothing to them: use auto or gateway if it should"},
		},

		{name: "ignored in discovery", text: "ignore_interfaces: [eth9]"},
		{name: "ignored out of a glob", text: `{interfaces: [{name: "eth*"}], ignore_interfaces: [eth9]}`},
		{name: "the default beside names", text: "interfaces: [{name: docker0}]"},
		{
			name: "ignored beside names", text: `{interfaces: [{name: eth0}, {name: eth1}], ignore_interfaces: ["eth*"]}`,
			want: []string{"ignore_interfaces: has no effect, as interfaces lists every managed one by its name"},
		},
		{
			name: "ignored and named", text: `{interfaces: [{name: "eth*"}, {name: eth1}], ignore_interfaces: [eth9, eth1, eth9]}`,
			want: []string{
				`ignore_interfaces[1]: "eth1" is managed all the same, as interfaces[1] names it`,
				`ignore_interfaces[2]: "eth9" is listed twice`,
			},
		},

		{name: "exclusions", text: `exclude: [10.0.0.0/8, "2001:db8::/32", {self_port: 53}, {protocol: tcp, self_port: 54}, {peer: 0.0.0.0/0, protocol: udp}, {self: 10.0.0.0/9}]`},
		{
			name: "exclusions of everything", text: `exclude: [0.0.0.0/0, {self: "::/0"}, {peer: "::/0", self: "2001:db8::/32"}]`,
			want: []string{
				"exclude[0]: excludes every ipv4 flow",
				"exclude[1]: excludes every ipv6 flow",
				"exclude[2]: has no effect, as exclude[1] excludes all of it",
			},
		},
		{
			name: "exclusions within others",
			text: `exclude: [10.0.0.0/8, 10.1.0.0/16, {peer: 10.2.0.1, protocol: tcp}, {self_port: 53}, {protocol: udp, self_port: 53}, {self_port: 53}, 10.0.0.0/7]`,
			want: []string{
				"exclude[1]: has no effect, as exclude[0] excludes all of it",
				"exclude[2]: has no effect, as exclude[0] excludes all of it",
				"exclude[4]: has no effect, as exclude[3] excludes all of it",
				"exclude[5]: has no effect, as exclude[3] excludes all of it",
			},
		},
		{
			name: "exclusion of what is not served", text: "exclude: [{peer: 10.0.0.1, protocol: vrrp}]",
			want: []string{"exclude[0].protocol: has no effect, as protocols does not list 112"},
		},

		{name: "repair", text: "repair_udp_source: true"},
		{name: "repair at need", text: "protocols: [tcp]"},
		{
			name: "repair without udp", text: "{protocols: [tcp], repair_udp_source: true}",
			want: []string{"repair_udp_source: has no effect, as protocols does not list udp"},
		},
		{name: "addresses", text: "addresses: [198.51.100.7]"},
		{
			name: "addresses among all", text: "{addresses: [198.51.100.7], scope: all}",
			want: []string{"addresses: has no effect, as scope: all serves every address"},
		},
		{name: "no metrics", text: `metrics: {listen: ""}`},
		{
			name: "no metrics, by tls", text: `metrics: {listen: "", web_config_file: /etc/web.yaml}`,
			want: []string{"metrics.web_config_file: has no effect, as metrics.listen is empty"},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := mustParse(t, test.text).Warnings(); !slices.Equal(got, test.want) {
				t.Errorf("got %q\nwant %q", got, test.want)
			}
		})
	}
	if got := Default().Warnings(); len(got) != 0 {
		t.Errorf("the default is warned of: %q", got)
	}
}
