// SPDX-License-Identifier: Apache-2.0

package discover

import (
	"net"
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
		await.Same(t, "managed", managed, names(r))
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

// TestIsTunnel: devices without an Ethernet header are tunnels, unless they are PPP or modems; of others, those that are made as
// such.
func TestIsTunnel(t *testing.T) {
	none, ethernet, ppp := netlink.LinkAttrs{EncapType: "none"}, netlink.LinkAttrs{EncapType: "ether"}, netlink.LinkAttrs{EncapType: "ppp"}
	named := func(name string, attrs netlink.LinkAttrs) netlink.LinkAttrs { attrs.Name = name; return attrs }
	for _, test := range []struct {
		link   netlink.Link
		tunnel bool
		uplink bool
	}{
		{&netlink.Tuntap{LinkAttrs: named("tun0", none)}, true, false},
		{&netlink.Tuntap{LinkAttrs: named("tap0", ethernet)}, false, false},
		{&netlink.Wireguard{LinkAttrs: named("wg0", none)}, true, false},
		{&netlink.Wireguard{LinkAttrs: named("ppp-office", none)}, true, false},
		{&netlink.Xfrmi{LinkAttrs: named("ipsec0", none)}, true, false},
		{&netlink.Vti{LinkAttrs: named("vti0", netlink.LinkAttrs{EncapType: "ipip"})}, true, false},
		{&netlink.GenericLink{LinkAttrs: named("erspan0", ethernet), LinkType: "erspan"}, true, false},
		{&netlink.Vxlan{LinkAttrs: named("vxlan0", ethernet)}, true, false},
		{&netlink.GenericLink{LinkAttrs: named("dsl0", ppp), LinkType: "ppp"}, false, true},
		{&netlink.Tuntap{LinkAttrs: named("ppp0", none)}, false, true},
		{&netlink.Tuntap{LinkAttrs: named("wwan0", none)}, false, true},
		{&netlink.Tuntap{LinkAttrs: named("ppp1", ethernet)}, false, false},
		{&netlink.Device{LinkAttrs: named("wwp0s20", none)}, false, true},
		{&netlink.GenericLink{LinkAttrs: named("rmnet_data0", netlink.LinkAttrs{EncapType: "unknown519"}), LinkType: "rmnet"}, false, true},
		{&netlink.GenericLink{LinkAttrs: named("cell0", none), LinkType: "wwan"}, false, true},
		{&netlink.Device{LinkAttrs: named("wwan1", ethernet)}, false, false},
		{&netlink.Vlan{LinkAttrs: named("eth0.7", ethernet)}, false, false},
	} {
		d := &device{link: test.link}
		if d.isTunnel() != test.tunnel || d.isUplink() != test.uplink {
			t.Errorf("%s: a tunnel: %v, an uplink: %v", d.name(), d.isTunnel(), d.isUplink())
		}
	}
}
