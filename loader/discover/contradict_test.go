package discover

import (
	"errors"
	"slices"
	"testing"

	"github.com/vishvananda/netlink"

	"replypath/loader/config"
)

func parse(t *testing.T, text string) *config.Config {
	t.Helper()
	cfg, err := config.Parse("replypath.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

func TestLastHopWithoutEthernetHeader(t *testing.T) {
	const (
		noHop = "has no ethernet header, and thus no last hop with a mac address: leave next_hop out or set it to auto"
		auto  = "has no ethernet header: next_hop last-hop is served as auto there"
	)
	for _, test := range []struct {
		name, file string
		refused    string // "": not
		warnings   []string
	}{
		{name: "auto", file: "interfaces:\n- name: wg0\n"},
		{name: "gateway", file: "interfaces:\n- {name: wg0, next_hop: gateway}\n"},
		{name: "a nic", file: "interfaces:\n- {name: eth0, next_hop: last-hop}\n"},
		{
			name: "a name", file: "interfaces:\n- name: eth0\n  next_hop: last-hop\n- name: wg0\n  next_hop: last-hop\n",
			refused: "replypath.yaml:5: interfaces[1].next_hop: interface wg0 " + noHop, warnings: []string{"interface wg0 " + auto},
		},
		{
			name: "an alternative name", file: "interfaces:\n- {name: office, next_hop: last-hop}\n",
			refused: "replypath.yaml:2: interfaces[0].next_hop: interface wg0 " + noHop, warnings: []string{"interface wg0 " + auto},
		},
		{
			name: "a glob of tunnels", file: "interfaces:\n- {name: \"wg*\", next_hop: last-hop}\n",
			refused: "replypath.yaml:2: interfaces[0].next_hop: interface wg0 " + noHop, warnings: []string{"interface wg0 " + auto},
		},
		{
			name: "a glob of anything", file: "interfaces:\n- {name: \"*\", next_hop: last-hop}\n",
			warnings: []string{"interface wg0 " + auto, "interface tun0 " + auto},
		},
		{
			name: "a glob, and the tunnels by their name",
			file: "interfaces:\n- {name: \"*\", next_hop: last-hop}\n- name: wg0\n- {name: tun0, next_hop: gateway}\n",
		},
		{
			name: "a glob of nics, the tunnel is ignored",
			file: "{interfaces: [{name: \"*\", next_hop: last-hop}], ignore_interfaces: [wg0, tun0]}",
		},
		{
			name:     "a glob of which nothing but tunnels is left",
			file:     "interfaces:\n- {name: \"*0\", next_hop: last-hop}\n- name: eth0\n",
			refused:  "replypath.yaml:2: interfaces[0].next_hop: interface wg0 " + noHop,
			warnings: []string{"interface wg0 " + auto, "interface tun0 " + auto},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			var l lan
			l.device("eth0")
			l.device("eth1")
			l.add(&netlink.Wireguard{}, netlink.LinkAttrs{Name: "wg0", AltNames: []string{"office"}, EncapType: "none"})
			l.add(&netlink.Tuntap{}, netlink.LinkAttrs{Name: "tun0", EncapType: "none"})
			for _, link := range l.links[:2] {
				link.Attrs().HardwareAddr = []byte{2, 0, 0, 0, 0, byte(link.Attrs().Index)}
			}
			r := l.evaluate(parse(t, test.file))
			got := ""
			if r.Contradiction != nil {
				got = r.Contradiction.Error()
				if !errors.Is(r.Contradiction, config.ErrInvalid) {
					t.Errorf("%v does not match ErrInvalid", r.Contradiction)
				}
			}
			if got != test.refused {
				t.Errorf("contradiction\n got %s\nwant %s", got, test.refused)
			}
			if !slices.Equal(r.Warnings, test.warnings) {
				t.Errorf("warnings\n got %q\nwant %q", r.Warnings, test.warnings)
			}
		})
	}
}
