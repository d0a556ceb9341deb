// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/gopacket/gopacket/layers"

	"replypath/test/harness"
	"replypath/test/topology"
)

// Routes by eth1 that lead to somewhere else, by routers that the questions do not come through. These come through
// router 1, which stands in no route.
var (
	elsewhere    = map[topology.Family]string{topology.IPv4: "10.50.0.0/16", topology.IPv6: "2001:db8:50::/48"}
	andFurther   = map[topology.Family]string{topology.IPv4: "10.60.0.0/16", topology.IPv6: "2001:db8:60::/48"}
	whereTheyAre = map[topology.Family]string{topology.IPv4: "10.9.0.0/24", topology.IPv6: "2001:db8:9::/64"}
)

// routeElsewhere adds routes by one of the routers, of a table.
func (r routers) routeElsewhere(t *testing.T, to map[topology.Family]string, router int, table string) {
	t.Helper()
	for _, f := range harness.Families {
		harness.Shell(t, r.Server.Host, fmt.Sprintf("ip route add %s via %s dev eth1 table %s", to[f], r.Inside[router].Address(f), table))
	}
}

// waitKnown waits until the routers' MACs are known by which routes of eth1 lead, and nobody else's.
func (r routers) waitKnown(t *testing.T, p *harness.Product, addresses ...netip.Addr) {
	t.Helper()
	harness.Eventually(t, "eth1's gateways are known", func() error {
		known := p.Status().Interface("eth1").Gateways
		usable := make(map[string]bool)
		for _, g := range known {
			usable[g.Address] = harness.OrEmpty(g.MAC) != ""
		}
		for _, address := range addresses {
			if !usable[address.String()] || len(known) != len(addresses) {
				return fmt.Errorf("eth1's gateways are %+v", known)
			}
		}
		return nil
	})
}

// addressesOf returns the routers' addresses at eth1.
func (r routers) addressesOf(of ...int) (all []netip.Addr) {
	for _, router := range of {
		for _, f := range harness.Families {
			all = append(all, r.Inside[router].Address(f))
		}
	}
	return all
}

func (r routers) conversations(t *testing.T, families ...topology.Family) (all []*harness.Conversation) {
	t.Helper()
	for _, f := range families {
		for _, kind := range harness.Kinds {
			all = append(all, harness.NewConversation(t, kind, r.ClientEth0, r.Server.Eth1.Address(f)))
		}
	}
	return all
}

// wantThrough asks, and wants each answer by eth1 to one of the routers.
func (r routers) wantThrough(t *testing.T, router int, what string, conversations ...*harness.Conversation) {
	t.Helper()
	for _, c := range conversations {
		exits := harness.TapAll(t, r.nics...)
		if err := c.Ask(harness.Within(t, harness.AnswerTime)); err != nil {
			t.Errorf("%s: %s: %v", what, c, err)
		}
		r.to(r.Inside[router].MAC).want(exits, what+": "+c.String(), c.Answers())
	}
}

// TestRouteElsewhere has a static route by eth1 to somewhere else: answers go back through the router that brought the
// question, be the route of the main table or of another. Who is where a route leads to is answered through its router.
func TestRouteElsewhere(t *testing.T) {
	for _, table := range []string{"main", "101"} {
		t.Run(table, func(t *testing.T) {
			r := newRouters(t)
			r.routeElsewhere(t, elsewhere, 1, table)
			p := harness.On(t, r.Server.Host)
			p.Start()
			r.waitKnown(t, p, r.addressesOf(1)...)
			r.bring(t, 0)
			open := r.conversations(t, harness.Families...)
			r.wantThrough(t, 0, "through a router that no route names", open...)
			r.bring(t, 1)
			r.wantThrough(t, 1, "through the one that a route names", r.conversations(t, harness.Families...)...)
			if table == "main" {
				return // where the kernel itself would send them by eth1
			}
			r.routeElsewhere(t, whereTheyAre, 1, table)
			r.bring(t, 0)
			for _, f := range harness.Families {
				harness.Eventually(t, "the route counts", func() error {
					c := harness.NewConversation(t, harness.UDP, r.ClientEth0, r.Server.Eth1.Address(f))
					exits := harness.TapAll(t, r.nics...)
					harness.Ask(t, c)
					for _, frame := range exits.Left(r.Server.Eth1, c.Answers()) {
						if frame.DestinationMAC.String() != r.Inside[1].MAC.String() {
							return fmt.Errorf("%s left to %s", c, frame.DestinationMAC)
						}
					}
					return nil
				})
			}
			r.wantThrough(t, 1, "where a route leads to", r.conversations(t, harness.Families...)...)
		})
	}
}

// TestRouteElsewhereComes adds such a route while connections are alive, and takes it away again.
func TestRouteElsewhereComes(t *testing.T) {
	for _, table := range []string{"main", "101"} {
		t.Run(table, func(t *testing.T) {
			r := newRouters(t)
			p := harness.On(t, r.Server.Host)
			p.Start()
			r.bring(t, 0)
			open := r.conversations(t, harness.Families...)
			r.wantThrough(t, 0, "before", open...)
			r.routeElsewhere(t, elsewhere, 1, table)
			r.waitKnown(t, p, r.addressesOf(1)...)
			r.wantThroughForLong(t, "while the route is there", open...)
			r.wantThrough(t, 0, "begun meanwhile", r.conversations(t, harness.Families...)...)
			for _, f := range harness.Families {
				harness.Shell(t, r.Server.Host, fmt.Sprintf("ip route del %s dev eth1 table %s", elsewhere[f], table))
			}
			r.waitKnown(t, p)
			r.wantThroughForLong(t, "after it", open...)
		})
	}
}

// wantThroughForLong asks for so long that the flows have chosen their next hop anew, as they do once a second.
func (r routers) wantThroughForLong(t *testing.T, what string, conversations ...*harness.Conversation) {
	t.Helper()
	for until := time.Now().Add(2500 * time.Millisecond); time.Now().Before(until) && !t.Failed(); {
		r.wantThrough(t, 0, what, conversations...)
	}
}

// TestRoutesElsewhere has two routers lead to somewhere else, and a third one bring the questions.
func TestRoutesElsewhere(t *testing.T) {
	r := newRouters(t)
	r.routeElsewhere(t, elsewhere, 1, "main")
	r.routeElsewhere(t, andFurther, 2, "101")
	p := harness.On(t, r.Server.Host)
	p.Start()
	r.waitKnown(t, p, r.addressesOf(1, 2)...)
	for router := range r.At {
		r.bring(t, router)
		r.wantThrough(t, router, fmt.Sprintf("through router %d", router+1), r.conversations(t, harness.Families...)...)
	}
}

// TestRouteElsewhereAdvertised has a router advertise a route to somewhere else, and itself as no default router
// (RFC 4191).
func TestRouteElsewhereAdvertised(t *testing.T) {
	r := newRouters(t)
	for key, value := range map[string]string{"accept_ra": "2", "accept_ra_rt_info_max_plen": "64"} {
		harness.Must(t, r.Server.SetSysctl("net/ipv6/conf/eth1/"+key, value))
	}
	p := harness.On(t, r.Server.Host)
	p.Start()
	r.bring(t, 0)
	open := r.conversations(t, topology.IPv6)
	r.wantThrough(t, 0, "before", open...)
	gateway := linkLocalOf(t, r.Inside[1])
	r.advertise(t, 1, gateway, netip.MustParsePrefix(elsewhere[topology.IPv6]))
	r.waitKnown(t, p, gateway)
	r.wantThroughForLong(t, "advertised", open...)
	r.wantThrough(t, 0, "begun meanwhile", r.conversations(t, topology.IPv6)...)
}

// advertise sends a router advertisement of one of the routers, with a route information option.
func (r routers) advertise(t *testing.T, router int, from netip.Addr, to netip.Prefix) {
	t.Helper()
	const routeInformation, halfHour = 24, 1800
	prefix := to.Addr().As16()
	option := layers.ICMPv6Option{Type: routeInformation, Data: append([]byte{byte(to.Bits()), 0, 0, 0, halfHour >> 8, halfHour & 0xff}, prefix[:8]...)}
	ip := &layers.IPv6{Version: 6, HopLimit: 255, NextHeader: layers.IPProtocolICMPv6, SrcIP: from.AsSlice(),
		DstIP: netip.IPv6LinkLocalAllNodes().AsSlice()}
	icmp := &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(layers.ICMPv6TypeRouterAdvertisement, 0)}
	harness.Must(t, icmp.SetNetworkLayerForChecksum(ip))
	harness.NewInjector(t, r.Inside[router]).Send(
		&layers.Ethernet{SrcMAC: r.Inside[router].MAC, DstMAC: []byte{0x33, 0x33, 0, 0, 0, 1}, EthernetType: layers.EthernetTypeIPv6},
		ip, icmp, &layers.ICMPv6RouterAdvertisement{HopLimit: 64, Options: layers.ICMPv6Options{option}})
}

// TestRouteElsewhereBound asks a socket that is bound to eth1: its answers, too, go to the router that brought the question.
func TestRouteElsewhereBound(t *testing.T) {
	const port = 7007
	r := newRouters(t)
	r.routeElsewhere(t, elsewhere, 1, "101")
	r.routeElsewhere(t, andFurther, 2, "101")
	for _, f := range harness.Families {
		harness.ServeAt(t, r.Server.Host, netip.AddrPortFrom(r.Server.Eth1.Address(f), port), topology.BindToDevice("eth1"))
	}
	p := harness.On(t, r.Server.Host)
	p.Start()
	r.waitKnown(t, p, r.addressesOf(1, 2)...)
	r.bring(t, 0)
	for _, f := range harness.Families {
		for _, kind := range []harness.Kind{harness.TCP, harness.UDP} {
			c := harness.NewConversation(t, kind, r.ClientEth0, r.Server.Eth1.Address(f))
			c.Self = netip.AddrPortFrom(c.Self.Addr(), port)
			r.wantThrough(t, 0, "bound to eth1", c)
		}
	}
}

// TestRouteElsewhereByGateway configures `next_hop: gateway`: through a router that no route names nothing is sent to
// one that leads elsewhere, but left to the kernel, and counted; through the one that a route names answers go there.
func TestRouteElsewhereByGateway(t *testing.T) {
	r := newRouters(t)
	r.routeElsewhere(t, elsewhere, 1, "main")
	p := harness.On(t, r.Server.Host)
	p.Start("--config", harness.WriteConfig(t, "interfaces:\n  - name: eth0\n  - name: eth1\n    next_hop: gateway\n"))
	r.waitKnown(t, p, r.addressesOf(1)...)
	r.bring(t, 1)
	r.wantThrough(t, 1, "through the one that a route names", r.conversations(t, harness.Families...)...)
	r.bring(t, 0)
	byKernel, before := exit{r.nics, r.Server.Eth0, nil}, p.Metrics()
	answers := 0
	for _, c := range r.conversations(t, harness.Families...) {
		exits := harness.TapAll(t, r.nics...)
		harness.Ask(t, c)
		if left := exits.Left(r.Server.Eth1, c.Answers()); len(left) > 0 {
			t.Errorf("%s: by eth1 left %s", c, harness.Describe(left))
		}
		answers += len(exits.Left(byKernel.by, c.Answers()))
	}
	counted := p.Metrics().Sum("replypath_uncorrected_packets_total", "to_interface=eth1", "reason=no_next_hop") -
		before.Sum("replypath_uncorrected_packets_total", "to_interface=eth1", "reason=no_next_hop")
	if answers == 0 || counted < float64(answers) {
		t.Errorf("%d answers left by eth0, %.0f counted", answers, counted)
	}
}
