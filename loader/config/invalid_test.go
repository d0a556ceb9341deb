// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"
	"strings"
	"testing"

	"replypath/test/await"
)

const (
	topKeys = "interfaces, ignore_interfaces, mode, follow, scope, host_model, related, addresses, loopback_addresses, exclude, " +
		"protocols, flow_table, fallback_route, manage_rp_filter, repair_udp_source, metrics, log"
	interfaceKeysText = "name, mode, next_hop, host_model, gateways"
)

var invalid = []struct {
	name string
	text string
	want string // without the name of the file
}{
	// Keys.
	{"unknown key", "mode: enforce\nmood: observe\n", "2: mood: unknown key, did you mean mode? allowed here: " + topKeys},
	{"unknown key with a dash", "ignore-interfaces: []", "1: ignore-interfaces: unknown key, did you mean ignore_interfaces? allowed here: " + topKeys},
	{"unknown key like none", "frobnicate: 1", "1: frobnicate: unknown key; allowed here: " + topKeys},
	{"key of another level", "max_entries: 5000", "1: max_entries: unknown key; allowed here: " + topKeys},
	{"top key below", "interfaces:\n- name: eth1\n  scope: all\n", "3: interfaces[0].scope: unknown key; allowed here: " + interfaceKeysText},
	{"key that is no word", `"a\nb": 1`, `1: "a\nb": unknown key; allowed here: ` + topKeys},
	{"empty key", `"": 1`, `1: "": unknown key; allowed here: ` + topKeys},
	{"key that is a list", "? [mode]\n: enforce\n", "1: a list is not a key: keys are plain words"},
	{"merge key", "<<: {mode: observe}", `1: "<<": unknown key; allowed here: ` + topKeys},
	{"key twice", "mode: enforce\nscope: all\nmode: observe\n", "3: mode: is set twice, first on line 1: keep one"},
	{"key twice below", "log:\n  level: info\n  level: warn\n", "3: log.level: is set twice, first on line 2: keep one"},

	// The document.
	{"list", "- mode: enforce\n", "1: a list is not a map with the keys " + topKeys},
	{"word", "enforce\n", `1: "enforce" is not a map with the keys ` + topKeys},
	{"two documents", "mode: enforce\n---\nmode: observe\n", "2: a second document starts here: keep all keys in one, without a line of ---"},
	{"second document broken", "mode: enforce\n---\nmode: [\n", "3: not yaml: did not find expected node content"},
	{"indentation", "mode: enforce\ninterfaces:\n- name: eth0\n mode: enforce\n", "4: not yaml: did not find expected key"},
	{"open list", "mode: enforce\nprotocols: [tcp,\n\nscope: all\n", "4: not yaml: did not find expected ',' or ']'"},
	{"bracket closed twice", "mode: enforce\nprotocols: [tcp]]\n\n# The next one is right.\nscope: all\n", "2: not yaml: did not find expected key"},
	{"open quote", "mode: enforce\nscope: 'all\nfollow: pinned\n\n", "2: not yaml: found unexpected end of stream"},
	{"tab", "mode: enforce\nlog:\n\tlevel: info\n", "3: not yaml: found character that cannot start any token"},
	{"colon", "mode: enforce: observe", "1: not yaml: mapping values are not allowed in this context"},
	{"unknown anchor", "mode: enforce\nscope: *none\n", "2: not yaml: unknown anchor 'none' referenced"},
	{"binary", "mode: enforce\n\x7fELF\x02\x01\x00", "2: not yaml: control characters are not allowed"},
	{"not utf-8", "mode: enforce\nscope: \xff\xff\n", "2: not yaml: invalid leading UTF-8 octet"},

	// Words.
	{"mode", "mode: enforced", `1: mode: "enforced" is not one of enforce, observe`},
	{"mode in capitals", "mode: Enforce", `1: mode: "Enforce" is not one of enforce, observe`},
	{"mode empty", `mode: ""`, `1: mode: "" is not one of enforce, observe`},
	{"mode a number", "mode: 1", "1: mode: 1 is not one of enforce, observe"},
	{"mode a list", "mode: [enforce]", "1: mode: a list is not one of enforce, observe"},
	{"mode over lines", "mode: \"a\\nb\"", `1: mode: "a\nb" is not one of enforce, observe`},
	{"manage_rp_filter a map", "manage_rp_filter: {}", "1: manage_rp_filter: a map is not one of true, false"},
	{"log a word", "log: debug", `1: log: "debug" is not a map with the keys level, format`},

	// Interfaces.
	{"interfaces a word", "interfaces: eth1", `1: interfaces: "eth1" is not a list of interfaces such as [{name: eth1}]`},
	{"interfaces a map", "interfaces: {name: eth1}", "1: interfaces: a map is not a list of interfaces such as [{name: eth1}]"},
	{"interfaces of words", "interfaces: [eth1]", `1: interfaces[0]: "eth1" is not a map with the keys ` + interfaceKeysText},
	{"interfaces empty", "interfaces: []", "1: interfaces: an empty list manages nothing: list interfaces, or leave the key out to have them found"},
	{"interface empty", "interfaces:\n-\n", "2: interfaces[0]: an empty value is not a map with the keys " + interfaceKeysText},
	{"interface with an empty name", "interfaces: [{name: ~}]", `1: interfaces[0]: has no name: add one such as "name: eth1"`},
	{"interfaces of too many globs", "interfaces:\n" + numbered(257, "- {name: 'e%d*'}\n"), "2: interfaces: has 257 globs, at most 256 are possible: use wider ones"},
	{"interface without name", "interfaces:\n- mode: observe\n", `2: interfaces[0]: has no name: add one such as "name: eth1"`},
	{"interface twice", "interfaces:\n- name: eth1\n- name: eth1\n", `3: interfaces[1]: "eth1" is listed twice, first on line 2: keep one`},
	{"name a number", "interfaces: [{name: 5}]", `1: interfaces[0].name: 5 is not an interface name, alternative name or glob such as eth1 or "eth*"; put it into quotes`},
	{"name a label", "interfaces: [{name: \"eth0:1\"}]", `1: interfaces[0].name: "eth0:1" is an address label, not an interface: use "eth0"`},
	{"ignored label", `ignore_interfaces: ["eth0:1"]`, `1: ignore_interfaces[0]: "eth0:1" is an address label, not an interface: use "eth0"`},
	{"ignored a word", "ignore_interfaces: docker0", `1: ignore_interfaces: "docker0" is not a list of strings such as ["docker*"]`},
	{"ignored a number", "ignore_interfaces: [0]", "1: ignore_interfaces[0]: 0 is not an interface name or glob; put it into quotes"},

	// Addresses.
	{"gateways a word", "interfaces: [{name: eth1, gateways: 10.4.0.1}]", `1: interfaces[0].gateways: "10.4.0.1" is not a list of addresses such as [10.4.0.1]`},
	{"gateways empty", "interfaces: [{name: eth1, gateways: []}]", "1: interfaces[0].gateways: an empty list names no gateway: list some, or leave the key out to have them found in the routing tables"},
	{"gateway a float", "interfaces: [{name: eth1, gateways: [10.4]}]", "1: interfaces[0].gateways[0]: 10.4 is not an address such as 10.4.0.1 or fe80::1"},
	{"gateway a name", "interfaces: [{name: eth1, gateways: [router]}]", `1: interfaces[0].gateways[0]: "router" is not an ip address such as 10.4.0.1 or 2001:db8::1`},
	{"gateway too large", "interfaces: [{name: eth1, gateways: [10.4.0.256]}]", `1: interfaces[0].gateways[0]: "10.4.0.256" is not an ip address such as 10.4.0.1 or 2001:db8::1`},
	{"gateway a network", "interfaces: [{name: eth1, gateways: [10.4.0.1/24]}]", `1: interfaces[0].gateways[0]: "10.4.0.1/24" is not an ip address: write it without the prefix length`},
	{"gateway with zone", `interfaces: [{name: eth1, gateways: ["fe80::1%eth1"]}]`, `1: interfaces[0].gateways[0]: "fe80::1%eth1" has a zone: write fe80::1`},
	{"gateway mapped", `interfaces: [{name: eth1, gateways: ["::ffff:10.4.0.1"]}]`, `1: interfaces[0].gateways[0]: "::ffff:10.4.0.1" is an ipv4-mapped address: write 10.4.0.1`},
	{"gateway unspecified", "interfaces: [{name: eth1, gateways: [0.0.0.0]}]", `1: interfaces[0].gateways[0]: "0.0.0.0" is the unspecified address: a gateway has a unicast address such as 10.4.0.1 or fe80::1`},
	{"gateway loopback", `interfaces: [{name: eth1, gateways: ["::1"]}]`, `1: interfaces[0].gateways[0]: "::1" is a loopback address: a gateway has a unicast address such as 10.4.0.1 or fe80::1`},
	{"gateway multicast", "interfaces: [{name: eth1, gateways: [224.0.0.1]}]", `1: interfaces[0].gateways[0]: "224.0.0.1" is a multicast address: a gateway has a unicast address such as 10.4.0.1 or fe80::1`},
	{"gateway broadcast", "interfaces: [{name: eth1, gateways: [255.255.255.255]}]", `1: interfaces[0].gateways[0]: "255.255.255.255" is the broadcast address: a gateway has a unicast address such as 10.4.0.1 or fe80::1`},
	{"gateway twice", "interfaces: [{name: eth1, gateways: [10.4.0.1, 10.4.0.1]}]", `1: interfaces[0].gateways[1]: "10.4.0.1" is listed twice, first on line 1: keep one`},

	// Exclusions.
	{"addresses a word", "addresses: 198.51.100.7", `1: addresses: "198.51.100.7" is not a list of addresses and networks such as [198.51.100.0/28, 2001:db8:9::5]`},
	{"addresses a number", "addresses: [10]", "1: addresses[0]: 10 is not an address or a network such as 198.51.100.0/28 or 2001:db8:9::5"},
	{"addresses no address", "addresses:\n- 198.51.100\n", `2: addresses[0]: "198.51.100" is not an ip address such as 10.4.0.1 or 2001:db8::1`},
	{"addresses host bits", "addresses: [198.51.100.7/28]", `1: addresses[0]: "198.51.100.7/28" has bits beyond its prefix length: write 198.51.100.0/28 or 198.51.100.7/32`},
	{"addresses everything", "addresses: [0.0.0.0/0]", `1: addresses[0]: "0.0.0.0/0" is too wide, a network of ipv4 has at least /8: name what this host serves, or use scope: all`},
	{"addresses too wide", "addresses: [\"2000::/3\"]", `1: addresses[0]: "2000::/3" is too wide, a network of ipv6 has at least /32: name what this host serves, or use scope: all`},
	{"addresses loopback", "addresses: [127.0.0.0/8]", `1: addresses[0]: "127.0.0.0/8" is a loopback address: list unicast addresses such as 198.51.100.7 or 2001:db8:9::5`},
	{"addresses multicast", "addresses: [\"ff02::1\"]", `1: addresses[0]: "ff02::1" is a multicast address: list unicast addresses such as 198.51.100.7 or 2001:db8:9::5`},
	{"addresses unspecified", "addresses: [0.0.0.0]", `1: addresses[0]: "0.0.0.0" is the unspecified address: list unicast addresses such as 198.51.100.7 or 2001:db8:9::5`},
	{"addresses link-local", "addresses: [169.254.0.0/16]", `1: addresses[0]: "169.254.0.0/16" is a link-local address: list unicast addresses such as 198.51.100.7 or 2001:db8:9::5`},
	{"addresses twice", "addresses: [198.51.100.7, 198.51.100.7/32]", `1: addresses[1]: "198.51.100.7/32" is listed twice, first on line 1: keep one`},
	{"too many addresses", "addresses:\n" + numbered(1025, "- 2001:db8::%x\n"), "1026: addresses[1024]: is one entry too many, at most 1024 are possible: use larger networks"},
	{"exclude a word", "exclude: 10.0.0.0/8", `1: exclude: "10.0.0.0/8" is not a list of networks and maps such as [192.0.2.0/24, {protocol: udp, self_port: 51820}]`},
	{"exclude bad network", "exclude:\n- 10.0.0.0/8\n- 10.0.0.0/33\n", `3: exclude[1]: "10.0.0.0/33" is not a network such as 192.0.2.0/24 or 2001:db8::/32`},
	{"exclude host bits", "exclude: [10.0.0.1/8]", `1: exclude[0]: "10.0.0.1/8" has bits beyond its prefix length: write 10.0.0.0/8 or 10.0.0.1/32`},
	{"exclude bad address", "exclude: [10.0.0]", `1: exclude[0]: "10.0.0" is not an ip address such as 10.4.0.1 or 2001:db8::1`},
	{"exclude mapped", `exclude: ["::ffff:10.0.0.0/104"]`, `1: exclude[0]: "::ffff:10.0.0.0/104" is an ipv4-mapped network: write 10.0.0.0/8`},
	{"exclude a number", "exclude: [10]", "1: exclude[0]: 10 is not a network or an address such as 192.0.2.0/24 or 2001:db8::1"},
	{"exclude a list", "exclude: [[10.0.0.0/8]]", "1: exclude[0]: a list is not a network or a map with the keys peer, self, protocol, self_port"},
	{"exclude nothing", "exclude: [~]", "1: exclude[0]: an empty value is not a network or a map with the keys peer, self, protocol, self_port"},
	{"exclude all", "exclude: [{}]", "1: exclude[0]: excludes everything: name at least one of peer, self, protocol, self_port"},
	{"exclude unknown key", "exclude: [{peers: 10.0.0.0/8}]", "1: exclude[0].peers: unknown key, did you mean peer? allowed here: peer, self, protocol, self_port"},
	{"exclude port 0", "exclude: [{self_port: 0}]", "1: exclude[0].self_port: 0 is not a whole number from 1 to 65535"},
	{"exclude port too large", "exclude: [{self_port: 65536}]", "1: exclude[0].self_port: 65536 is not a whole number from 1 to 65535"},
	{"exclude port of icmp", "exclude: [{protocol: icmp, self_port: 7}]", "1: exclude[0]: self_port matches nothing, as icmp has no ports: use tcp, udp or sctp, or leave one of the two out"},
	{"exclude families", "exclude: [{peer: 10.0.0.0/8, self: \"2001:db8::1\"}]", "1: exclude[0]: matches nothing, as peer 10.0.0.0/8 and self 2001:db8::1/128 are of different families"},
	{"exclude icmpv6 of ipv4", "exclude: [{self: 10.0.0.1, protocol: icmpv6}]", "1: exclude[0]: matches nothing, as icmpv6 does not go with the family of the address"},
	{"too many exclusions", "exclude:\n" + strings.Repeat("- 10.0.0.0/8\n", 65), `66: exclude[64]: is one entry too many, at most 64 are possible: use larger networks`},

	// Protocols.
	{"protocols a word", "protocols: tcp", `1: protocols: "tcp" is not a list of protocols such as [tcp, udp, icmp, icmpv6, sctp]`},
	{"protocols empty", "protocols: []", "1: protocols: an empty list serves nothing: list at least one of " + protocolValues},
	{"protocol unknown", "protocols: [tpc]", `1: protocols[0]: "tpc" is not a protocol: use one of ` + protocolValues},
	{"protocol too large", "protocols: [tcp, 256]", `1: protocols[1]: "256" is not a protocol: use one of ` + protocolValues},
	{"protocol negative", "protocols: [-1]", `1: protocols[0]: "-1" is not a protocol: use one of ` + protocolValues},
	{"protocol a list", "protocols: [[tcp]]", "1: protocols[0]: a list is not a protocol: use one of " + protocolValues},
	{"protocol an extension header", "protocols: [44]", "1: protocols[0]: 44 is an ipv6 extension header: use one of " + protocolValues},
	{"protocol twice", "protocols: [tcp, 6]", `1: protocols[1]: 6 is listed twice, first on line 1: keep one`},

	// Sizes.
	{"flow_table a number", "flow_table: 5000", "1: flow_table: 5000 is not a map with the keys max_entries"},
	{"max_entries negative", "flow_table:\n  max_entries: -1\n", "2: flow_table.max_entries: -1 is not a whole number from 1024 to 16777216"},
	{"max_entries too small", "flow_table: {max_entries: 1023}", "1: flow_table.max_entries: 1023 is not a whole number from 1024 to 16777216"},
	{"max_entries too large", "flow_table: {max_entries: 16777217}", "1: flow_table.max_entries: 16777217 is not a whole number from 1024 to 16777216"},
	{"max_entries absurd", "flow_table: {max_entries: 99999999999999999999}", "1: flow_table.max_entries: 99999999999999999999 is not a whole number from 1024 to 16777216"},
	{"max_entries a string", `flow_table: {max_entries: "5000"}`, `1: flow_table.max_entries: "5000" is not a whole number from 1024 to 16777216`},

	// Metrics.
	{"listen a number", "metrics: {listen: 9945}", `1: metrics.listen: 9945 is not an address such as "127.0.0.1:9945"`},
	{"listen without port", "metrics: {listen: 127.0.0.1}", `1: metrics.listen: "127.0.0.1" is not an address and a port: use one such as 127.0.0.1:9945, [::1]:9945 or :9945, or "" for none`},
	{"listen without brackets", `metrics: {listen: "::1:9945"}`, `1: metrics.listen: "::1:9945" is not an address and a port: use one such as 127.0.0.1:9945, [::1]:9945 or :9945, or "" for none`},
	{"listen port too large", "metrics: {listen: 127.0.0.1:99999}", `1: metrics.listen: "127.0.0.1:99999" has no port from 0 to 65535: use one such as 127.0.0.1:9945, [::1]:9945 or :9945, or "" for none`},
	{"listen port by name", "metrics: {listen: 127.0.0.1:http}", `1: metrics.listen: "127.0.0.1:http" has no port from 0 to 65535: use one such as 127.0.0.1:9945, [::1]:9945 or :9945, or "" for none`},
	{"listen bad address", "metrics: {listen: 127.0.0.256:9945}", `1: metrics.listen: "127.0.0.256:9945" has no valid host: use one such as 127.0.0.1:9945, [::1]:9945 or :9945, or "" for none`},
	{"listen url", "metrics: {listen: http://localhost:9945}", `1: metrics.listen: "http://localhost:9945" is not an address and a port: use one such as 127.0.0.1:9945, [::1]:9945 or :9945, or "" for none`},
	{"listen mapped", `metrics: {listen: "[::ffff:127.0.0.1]:9945"}`, `1: metrics.listen: "[::ffff:127.0.0.1]:9945" is an ipv4-mapped address: write 127.0.0.1:9945`},
	{"web_config_file relative", "metrics: {web_config_file: web.yaml}", `1: metrics.web_config_file: "web.yaml" is not an absolute path: begin it with a slash`},
	{"web_config_file a list", "metrics: {web_config_file: [a]}", `1: metrics.web_config_file: a list is not the absolute path of a file, or ""`},
	{"metrics a bool", "metrics: false", "1: metrics: false is not a map with the keys listen, web_config_file"},
}

// numbered repeats a line of a list, with the number of each.
func numbered(lines int, line string) string {
	var b strings.Builder
	for i := range lines {
		fmt.Fprintf(&b, line, i)
	}
	return b.String()
}

func TestParseInvalid(t *testing.T) {
	for _, test := range invalid {
		t.Run(test.name, func(t *testing.T) {
			config, err := Parse("/etc/replypath/replypath.yaml", []byte(test.text))
			if err == nil {
				t.Fatalf("%q is accepted as %+v", test.text, config)
			}
			await.Same(t, test.text, "/etc/replypath/replypath.yaml:"+test.want, err.Error())
			checkError(t, err)
		})
	}
}

// TestAllErrors: whoever mends a file hears of everything at once.
func TestAllErrors(t *testing.T) {
	const text = `mode: enforced
mood: observe
interfaces:
- {next_hop: lasthop, gateways: [10.4.0.1, 10.4.0.1, nowhere]}
- name: "eth0:1"
- name: eth1
- name: eth1
exclude: [{}, 300.0.0.0/8]
flow_table: {max_entries: 1}
metrics: {listen: nowhere, web_config_file: web.yaml}
`
	cfg, err := Parse("replypath.yaml", []byte(text))
	if err == nil {
		t.Fatalf("it is accepted as %+v", cfg)
	}
	checkError(t, err)
	lines := strings.Split(err.Error(), "\n")
	for i, want := range []string{
		"1: mode: ", "2: mood: unknown key", "4: interfaces[0].next_hop: ", "4: interfaces[0].gateways[1]: ", "4: interfaces[0].gateways[2]: ",
		"4: interfaces[0]: has no name", "5: interfaces[1].name: ", "7: interfaces[3]: ", "8: exclude[0]: ", "8: exclude[1]: ",
		"9: flow_table.max_entries: ", "10: metrics.listen: ", "10: metrics.web_config_file: ",
	} {
		if i >= len(lines) || !strings.HasPrefix(lines[i], "replypath.yaml:"+want) {
			t.Fatalf("error %d is not about %q:\n%v", i, want, err)
		}
	}
	if len(lines) != 13 {
		t.Errorf("%d errors, not 13:\n%v", len(lines), err)
	}
	if cfg == nil || len(cfg.Interfaces) != 1 || cfg.Interfaces[0].Name != "eth1" {
		t.Errorf("what could be read is %+v", cfg)
	}
}

// TestErrorsAreBounded: a file that is none of ours does not fill the log.
func TestErrorsAreBounded(t *testing.T) {
	_, err := Parse("replypath.yaml", []byte(numbered(10_000, "key%d: 1\n")))
	checkError(t, err)
	lines := strings.Split(err.Error(), "\n")
	if len(lines) != mostErrors+1 || lines[mostErrors] != "and more errors" {
		t.Errorf("%d lines, the last one %q", len(lines), lines[len(lines)-1])
	}
}

func TestCheckInterfaceName(t *testing.T) {
	for _, name := range []string{"eth0", "eth0.100", "en*", "enp129s0f1np1v*", "wlp2s0", "br-0a1b2c", "eth[01]", "ens?", "123", "..."} {
		if err := CheckInterfaceName(name); err != nil {
			t.Errorf("CheckInterfaceName(%q): %v", name, err)
		}
	}
	const allowed = `: use one such as eth1, without a slash, colon, space or control character`
	refused := map[string]string{
		"":                       `"" is not an interface name: it is empty` + allowed,
		".":                      `"." is not an interface name: the kernel reserves it` + allowed,
		"..":                     `".." is not an interface name: the kernel reserves it` + allowed,
		"eth/0":                  `"eth/0" is not an interface name: it contains a slash` + allowed,
		"eth 0":                  `"eth 0" is not an interface name: it contains a space or a control character` + allowed,
		"eth\x00":                `"eth\x00" is not an interface name: it contains a space or a control character` + allowed,
		"eth0:1":                 `"eth0:1" is an address label, not an interface: use "eth0"`,
		"bond0.7:nfs":            `"bond0.7:nfs" is an address label, not an interface: use "bond0.7"`,
		":1":                     `":1" is not an interface name: it contains a colon` + allowed,
		"eth[0":                  `"eth[0" is not a glob: a bracket or a backslash is left open`,
		"lo":                     `"lo" is the loopback interface, whose traffic is never touched: name one that leads to the network`,
		"replypath0":             `"replypath0" is replypath's own device: name one that leads to the network`,
		"enp129s0f1np1v12":       `"enp129s0f1np1v12" is not an interface name: it is longer than 15 characters, and no interface has it as its alternative name`,
		strings.Repeat("b", 128): `"` + strings.Repeat("b", 60) + `..." is not an interface name: it is longer than 15 characters, or 127 for an alternative name`,
	}
	for name, want := range refused {
		if err := CheckInterfaceName(name); err == nil || err.Error() != want {
			t.Errorf("CheckInterfaceName(%q)\n got %v\nwant %s", name, err, want)
		}
	}
}
