// SPDX-License-Identifier: Apache-2.0

package discover

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"replypath/loader/config"
	"replypath/test/await"
)

func parse(t *testing.T, text string) *config.Config {
	t.Helper()
	cfg, err := config.Parse("replypath.yaml", []byte(text))
	await.Must(t, err)
	return cfg
}

// contradictionOf returns what a result refuses, "" for nothing.
func contradictionOf(t *testing.T, r *Result) string {
	t.Helper()
	if r.Contradiction == nil {
		return ""
	}
	if !errors.Is(r.Contradiction, config.ErrInvalid) {
		t.Errorf("%v does not match ErrInvalid", r.Contradiction)
	}
	return r.Contradiction.Error()
}

// Globs contradict each other where an interface that is there matches both, and they differ. The first is in force.
func TestGlobsThatContradict(t *testing.T) {
	const (
		refused = `replypath.yaml:3: interfaces[1].%[1]s: %[2]q contradicts %[3]q on line 2, as both match interface %[4]s: ` +
			`set the same %[1]s in both, or give %[4]s an entry of its own`
		warning = `interface %s has another %s by its entry %q than by %q: the former is in force, but the next start or reload is refused`
	)
	for _, test := range []struct {
		name, first, second string
		others              string // lines that follow
		key, device         string // "": not refused
	}{
		{name: "next_hop", first: `name: "eth*", next_hop: last-hop`, second: `name: "*1"`, key: "next_hop", device: "eth1"},
		{name: "mode of all", first: `name: "e*", mode: observe`, second: `name: "?th1"`, key: "mode", device: "eth1"},
		{name: "gateways", first: `name: "eth[12]", gateways: [10.0.0.1]`, second: `name: "eth[13]", gateways: [10.0.0.2]`, key: "gateways", device: "eth1"},
		{name: "of several the first", first: `name: "eth*", mode: observe`, second: `name: "e*"`, key: "mode", device: "eth0"},
		{name: "an alternative name", first: `name: "off*", mode: observe`, second: `name: "*ce"`, key: "mode", device: "eth1"},
		{name: "a name and an alternative one", first: `name: "off*", mode: observe`, second: `name: "eth*"`, key: "mode", device: "eth1"},
		{name: "no interface matches both", first: `name: "eth*", next_hop: last-hop`, second: `name: "*2"`},
		{name: "none that is managed", first: `name: "eth*", next_hop: last-hop`, second: `name: "*1"`, others: "ignore_interfaces: [eth1]\n"},
		{name: "none that can be managed", first: `name: "lo*", next_hop: last-hop`, second: `name: "l*"`},
		{name: "an entry of its own", first: `name: "eth*", next_hop: last-hop`, second: `name: "*1"`, others: "- {name: eth1, mode: observe}\n"},
		{name: "an entry by an alternative name", first: `name: "eth*", next_hop: last-hop`, second: `name: "*1"`, others: "- name: office\n"},
		{name: "the same settings", first: `name: "eth*", next_hop: last-hop`, second: `name: "eth1*", next_hop: last-hop`},
		{name: "the same mode, once that of all", first: `name: "eth*"`, second: `name: "eth1*", mode: enforce`},
		{name: "order of gateways", first: `name: "eth*", gateways: [10.0.0.1, 10.0.0.2]`, second: `name: "*1", gateways: [10.0.0.2, 10.0.0.1]`},
	} {
		t.Run(test.name, func(t *testing.T) {
			var l lan
			l.add(&netlink.Device{}, netlink.LinkAttrs{Name: "lo", Flags: net.FlagLoopback, EncapType: "loopback"})
			l.device("eth0")
			l.device("eth1", "office")
			for _, link := range l.links {
				link.Attrs().HardwareAddr = []byte{2, 0, 0, 0, 0, byte(link.Attrs().Index)}
			}
			cfg := parse(t, "interfaces:\n- {"+test.first+"}\n- {"+test.second+"}\n"+test.others)
			r := l.evaluate(cfg)
			want, warned := "", ""
			if first, second := cfg.Interfaces[0].Name, cfg.Interfaces[1].Name; test.key != "" {
				want = fmt.Sprintf(refused, test.key, second, first, test.device)
				warned = fmt.Sprintf(warning, test.device, test.key, first, second)
			}
			await.Same(t, "contradiction", want, contradictionOf(t, &r))
			if warned != "" && !slices.Contains(r.Warnings, warned) {
				t.Errorf("no warning %q\namong %q", warned, r.Warnings)
			}
			for _, i := range r.Interfaces {
				if i.Name == test.device && i.Settings.Name != cfg.Interfaces[0].Name {
					t.Errorf("%q is in force on %s", i.Settings.Name, i.Name)
				}
			}
		})
	}
}

func TestLastHopWithoutEthernetHeader(t *testing.T) {
	const (
		noHop = "has no ethernet header, so it has no last hop with a mac address: leave next_hop out or set it to auto"
		auto  = "has no ethernet header: next_hop last-hop is served as auto there"
	)
	for _, test := range []struct{ entries, refused, warned string }{ // entries are name=next_hop; refused is the entry and its line, and the interface
		{"wg0", "", ""},
		{"wg0=gateway", "", ""},
		{"eth0=last-hop", "", ""},
		{"eth0=last-hop wg0=last-hop", "3: interfaces[1] wg0", "wg0"},
		{"office=last-hop", "2: interfaces[0] wg0", "wg0"},
		{"wg*=last-hop", "2: interfaces[0] wg0", "wg0"},
		{"*=last-hop", "", "wg0 tun0"},
		{"*=last-hop wg0 tun0=gateway", "", ""},
		{"*0=last-hop eth0", "2: interfaces[0] wg0", "wg0 tun0"},
	} {
		t.Run(test.entries, func(t *testing.T) {
			file := "interfaces:\n"
			for _, entry := range strings.Fields(test.entries) {
				name, hop, _ := strings.Cut(entry, "=")
				file += fmt.Sprintf("- {name: %q, next_hop: %s}\n", name, cmp.Or(hop, "auto"))
			}
			refused, warnings := "", []string(nil)
			if fields := strings.Fields(test.refused); len(fields) > 0 {
				refused = fmt.Sprintf("replypath.yaml:%s %s.next_hop: interface %s %s", fields[0], fields[1], fields[2], noHop)
			}
			for _, name := range strings.Fields(test.warned) {
				warnings = append(warnings, "interface "+name+" "+auto)
			}
			var l lan
			l.device("eth0")
			l.device("eth1")
			l.add(&netlink.Wireguard{}, netlink.LinkAttrs{Name: "wg0", AltNames: []string{"office"}, EncapType: "none"})
			l.add(&netlink.Tuntap{}, netlink.LinkAttrs{Name: "tun0", EncapType: "none"})
			for _, link := range l.links[:2] {
				link.Attrs().HardwareAddr = []byte{2, 0, 0, 0, 0, byte(link.Attrs().Index)}
			}
			r := l.evaluate(parse(t, file))
			await.Same(t, "contradiction", refused, contradictionOf(t, &r))
			await.Same(t, "warnings", warnings, r.Warnings)
		})
	}
}
