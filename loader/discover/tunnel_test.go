// SPDX-License-Identifier: Apache-2.0

package discover

import (
	"net"
	"slices"
	"testing"

	"github.com/vishvananda/netlink"

	"replypath/loader/config"
	"replypath/test/await"
)

// Tunnels whose far end depends on the packet are never managed, not even by name.
func TestOpenTunnels(t *testing.T) {
	var l lan
	far, nowhere := net.IPv4(192, 0, 2, 1), net.IPv4zero
	header, none := netlink.LinkAttrs{}, netlink.LinkAttrs{EncapType: "none"}
	add := func(name string, attrs netlink.LinkAttrs, link netlink.Link) {
		attrs.Name = name
		l.add(link, attrs)
	}
	add("vxlan0", header, &netlink.Vxlan{})
	add("vxlan_sys", header, &netlink.Vxlan{FlowBased: true})
	add("geneve0", header, &netlink.Geneve{Remote: far})
	add("genev_sys", header, &netlink.Geneve{FlowBased: true})
	add("bareudp0", none, &netlink.BareUDP{})
	add("gre1", none, &netlink.Gretun{Remote: far})
	add("mgre0", none, &netlink.Gretun{Remote: nowhere})
	add("gre_sys", none, &netlink.Gretun{FlowBased: true})
	add("ip6gre0", none, &netlink.Gretun{Remote: net.IPv6unspecified})
	add("gretap1", header, &netlink.Gretap{Remote: far})
	add("gretap0", header, &netlink.Gretap{})
	add("ipip1", none, &netlink.Iptun{Remote: far})
	add("tunl0", none, &netlink.Iptun{Remote: nowhere})
	add("ip6tnl1", none, &netlink.Ip6tnl{Remote: net.ParseIP("2001:db8::1")})
	add("ip6tnl0", none, &netlink.Ip6tnl{Remote: net.IPv6unspecified})
	add("sit1", none, &netlink.Sittun{Remote: far})
	add("sit0", none, &netlink.Sittun{})

	for _, cfg := range []*config.Config{config.Default(), named(config.Interface{Name: "*"})} {
		r := l.evaluate(cfg)
		managed := []string{"vxlan0", "geneve0", "gre1", "gretap1", "ipip1", "ip6tnl1", "sit1"}
		if got := names(r); !slices.Equal(got, managed) {
			t.Errorf("managed %q, want %q", got, managed)
		}
		for _, i := range r.Interfaces {
			if i.OwnOnly == i.Named {
				t.Errorf("%s: records requests for its own addresses only: %v, although the configuration names it: %v", i.Name, i.OwnOnly, i.Named)
			}
		}
		const (
			external = "a tunnel in external mode: each packet has to say where it leads"
			noRemote = "a tunnel without a remote address: the route says where a packet leads"
		)
		want := map[string]string{
			"vxlan_sys": external, "genev_sys": external, "bareudp0": external, "gre_sys": external,
			"mgre0": noRemote, "ip6gre0": noRemote, "gretap0": noRemote, "tunl0": noRemote, "ip6tnl0": noRemote, "sit0": noRemote,
		}
		await.Same(t, "unmanaged", want, reasons(r))
	}
}

// TestIsTunnel: devices without an Ethernet header are tunnels, unless they are modems; of others, those that are made as such.
func TestIsTunnel(t *testing.T) {
	none, ethernet := netlink.LinkAttrs{EncapType: "none"}, netlink.LinkAttrs{EncapType: "ether"}
	for kind, test := range map[string]struct {
		link netlink.Link
		want bool
	}{
		"tun":       {&netlink.Tuntap{LinkAttrs: none}, true},
		"tap":       {&netlink.Tuntap{LinkAttrs: ethernet}, false},
		"wireguard": {&netlink.Wireguard{LinkAttrs: none}, true},
		"ppp":       {&netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{EncapType: "ppp"}, LinkType: "ppp"}, true},
		"xfrm":      {&netlink.Xfrmi{LinkAttrs: none}, true},
		"vti":       {&netlink.Vti{LinkAttrs: netlink.LinkAttrs{EncapType: "ipip"}}, true},
		"erspan":    {&netlink.GenericLink{LinkAttrs: ethernet, LinkType: "erspan"}, true},
		"vxlan":     {&netlink.Vxlan{LinkAttrs: ethernet}, true},
		"modem":     {&netlink.Device{LinkAttrs: none}, false},
		"wwan":      {&netlink.GenericLink{LinkAttrs: none, LinkType: "wwan"}, false},
		"vlan":      {&netlink.Vlan{LinkAttrs: ethernet}, false},
		"nic":       {&netlink.Device{LinkAttrs: ethernet}, false},
	} {
		if got := (&device{link: test.link}).isTunnel(); got != test.want {
			t.Errorf("%s: a tunnel: %v", kind, got)
		}
	}
}
