// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"testing"

	"github.com/vishvananda/netlink"

	"replypath/bpf"
	"replypath/loader/config"
	"replypath/loader/nexthop"
	"replypath/loader/status"
	"replypath/metrics"
	"replypath/test/harness"
	"replypath/test/topology"
)

// gatewayMACs returns which gateways the programs tell by MAC on an interface.
func (b *bed) gatewayMACs(index int) map[bpf.DatapathGatewayMac]uint32 {
	b.Helper()
	found := make(map[bpf.DatapathGatewayMac]uint32)
	var (
		key bpf.DatapathGatewayMac
		id  uint32
	)
	entries := b.maps().GatewayMacs.Iterate()
	for entries.Next(&key, &id) {
		if key.Ifindex == uint32(index) {
			found[key] = id
		}
	}
	harness.Must(b.T, entries.Err())
	return found
}

func macKey(index int, mac net.HardwareAddr, family uint8) bpf.DatapathGatewayMac {
	key := bpf.DatapathGatewayMac{Ifindex: uint32(index), Family: family}
	copy(key.Mac[:], mac)
	return key
}

func (b *bed) setNeighbour(index int, address netip.Addr, mac net.HardwareAddr, state int) {
	b.Helper()
	harness.Must(b.T, b.host.Netlink().NeighSet(&netlink.Neigh{
		LinkIndex: index, IP: address.AsSlice(), HardwareAddr: mac, State: state,
	}))
}

func TestGatewayTakesANewMAC(t *testing.T) {
	s := newS1(t, topology.S1Options{})
	b := newBed(t, s.B.Host)
	b.start(nil)
	mac := net.HardwareAddr{2, 0, 0, 9, 9, 9}
	ids := make(map[topology.Family]uint16)
	for _, f := range s.Families() {
		before, id := b.gatewayOf(s.B.Eth0.Gateway(f))
		if before.Usable != 1 || !slices.Equal(before.Mac[:], s.B.Eth0.Peer().MAC) || before.Ifindex != uint32(s.B.Eth0.Index) {
			t.Errorf("%s: gateway %+v", f, before)
		}
		ids[f] = id
	}
	harness.Must(t, s.B.Eth0.Peer().SetMAC(mac))
	for _, f := range s.Families() {
		gateway := s.B.Eth0.Gateway(f)
		b.setNeighbour(s.B.Eth0.Index, gateway, mac, netlink.NUD_REACHABLE)
		eventually(t, "the MAC is seen", func() bool {
			entry, id := b.gatewayOf(gateway)
			return id == ids[f] && slices.Equal(entry.Mac[:], mac) && entry.Usable == 1
		})
		eventually(t, "it is known by its MAC", func() bool {
			macs := b.gatewayMACs(s.B.Eth0.Index)
			return macs[macKey(s.B.Eth0.Index, mac, uint8(f))] == uint32(ids[f]) &&
				macs[macKey(s.B.Eth0.Index, s.B.Eth0.Peer().MAC, uint8(f))] == 0
		})
	}
	entry := b.entry(b.idsOf("eth0")[0])
	if entry.Gateways4 != 1 || entry.Gateways6 != 1 || entry.Gateway4 == 0 || entry.Gateway6 == 0 {
		t.Errorf("entry %+v", entry)
	}
}

// A gateway that fails for the first time is asked once more at once.
func TestGatewayThatFailsOnce(t *testing.T) {
	s := newS1(t, topology.S1Options{})
	b := newBed(t, s.B.Host)
	b.start(nil)
	for i, f := range s.Families() {
		gateway := s.B.Eth0.Gateway(f)
		b.setNeighbour(s.B.Eth0.Index, gateway, nil, netlink.NUD_FAILED)
		eventually(t, "the failure is seen", func() bool { return b.log.count("gateway does not answer") > i })
		eventually(t, "it is usable again", func() bool {
			entry, _ := b.gatewayOf(gateway)
			return entry.Usable == 1
		})
	}
}

func TestGatewayThatNeverAnswers(t *testing.T) {
	s := newS1(t, topology.S1Options{})
	b := newBed(t, s.B.Host)
	for _, family := range []string{"ipv4", "ipv6"} {
		harness.Must(t, b.host.SetSysctl("net/"+family+"/neigh/eth1/retrans_time_ms", "20"))
	}
	b.start(nil)
	b.ip("route add 10.99.0.0/16 via 10.4.0.77\nroute add 2001:db8:99::/48 via 2001:db8:4::77\n")
	eventually(t, "both have failed", func() bool { return b.log.count("gateway does not answer") == 2 })
	for _, address := range []string{"10.4.0.77", "2001:db8:4::77"} {
		if entry, _ := b.gatewayOf(netip.MustParseAddr(address)); entry.Usable != 0 || entry.Ifindex == 0 {
			t.Errorf("%s: %+v", address, entry)
		}
	}
	for _, g := range b.status().of("eth1").Gateways {
		if g.MAC != nil {
			t.Errorf("status %+v", g)
		}
	}
	pingB(t, s)
}

func TestColdGatewayIsResolved(t *testing.T) {
	s := newS1(t, topology.S1Options{ColdGateways: true})
	b := newBed(t, s.B.Host)
	b.ip("route add default via 10.4.0.1 metric 500\nroute add default via 2001:db8:4::1 metric 5000\n")
	b.start(nil)
	eventually(t, "all gateways are reachable", func() bool {
		reachable := 0
		for _, i := range b.status().Interfaces {
			for _, g := range i.Gateways {
				if g.State == nexthop.StateReachable && g.MAC != nil {
					reachable++
				}
			}
		}
		return reachable == 4
	})
}

func TestGatewayComesAndGoes(t *testing.T) {
	s := newS1(t, topology.S1Options{})
	b := newBed(t, s.B.Host)
	b.start(nil)
	id := b.idsOf("eth1")[0]
	gateway := s.B.Eth1.Gateway(topology.IPv4)
	for range 2 {
		b.ip("route add 10.99.0.0/16 via 10.4.0.1\n")
		eventually(t, "the gateway is usable", func() bool {
			i := b.status().of("eth1")
			if len(i.Gateways) == 0 {
				return false
			}
			entry, gatewayID := b.gatewayOf(gateway)
			return entry.Usable == 1 && b.entry(id).Gateway4 == gatewayID
		})
		b.ip("route del 10.99.0.0/16\n")
		eventually(t, "the gateway is forgotten", func() bool {
			entry, _ := b.gatewayOf(gateway)
			return entry == (bpf.DatapathGateway{}) && len(b.status().of("eth1").Gateways) == 0 && b.entry(id).Gateways4 == 0
		})
	}
	known := 0
	for _, r := range b.journal().Gateways {
		if r.Address == gateway.String() {
			known++
		}
	}
	if known != 1 {
		t.Errorf("it has had %d ids", known)
	}
}

func TestConfiguredGateway(t *testing.T) {
	s := newS1(t, topology.S1Options{})
	b := newBed(t, s.B.Host)
	b.start(func(o *Options) {
		o.Config.Interfaces = []config.Interface{
			{Name: "eth0"},
			{Name: "eth1", NextHop: config.NextHopGateway, Gateways: []netip.Addr{
				s.B.Eth1.Gateway(topology.IPv4), s.B.Eth1.Gateway(topology.IPv6),
			}},
		}
	})
	eventually(t, "both are resolved", func() bool {
		gateways := b.status().of("eth1").Gateways
		return len(gateways) == 2 && gateways[0].MAC != nil && gateways[1].MAC != nil
	})
	for _, f := range s.Families() { // the kernel knows the MACs a moment before the programs do
		eventually(t, "the programs know the gateway", func() bool {
			entry, _ := b.gatewayOf(s.B.Eth1.Gateway(f))
			return entry.Usable == 1
		})
	}
	if entry := b.entry(b.idsOf("eth1")[0]); entry.NextHop != uint8(bpf.DatapathNextHopModeNEXT_HOP_GATEWAY) {
		t.Errorf("entry %+v", entry)
	}
	pingB(t, s)
}

// flaps are ways in which the kernel throws the neighbours of an interface away.
var flaps = map[string]func(*bed, *topology.Interface){
	"carrier": func(b *bed, i *topology.Interface) {
		harness.Must(b.T, i.Peer().SetDown())
		b.awaitUp(i.Name, false)
		harness.Must(b.T, i.Peer().SetUp())
	},
	"set down": func(b *bed, i *topology.Interface) {
		harness.Must(b.T, i.SetDown())
		b.awaitUp(i.Name, false)
		harness.Must(b.T, i.SetUp())
	},
	"its own mac": func(b *bed, i *topology.Interface) {
		mac := slices.Clone(b.linkOf(i.Name).Attrs().HardwareAddr)
		mac[5]++
		harness.Must(b.T, i.SetMAC(mac))
	},
}

func (b *bed) awaitUp(name string, want bool) {
	b.Helper()
	id := b.idsOf(name)[0]
	eventually(b.T, fmt.Sprintf("%s is up: %t", name, want), func() bool {
		return b.entry(id).Flags&uint8(bpf.DatapathInterfaceFlagsINTERFACE_UP) != 0 == want
	})
}

// awaitKnown waits until the kernel has a MAC for a gateway.
func (b *bed) awaitKnown(i *topology.Interface, gateway netip.Addr) {
	b.Helper()
	eventually(b.T, gateway.String()+" is known", func() bool {
		of := b.status().of(i.Name)
		return slices.ContainsFunc(of.Gateways, func(g status.Gateway) bool {
			return g.Address == gateway.String() && g.MAC != nil
		})
	})
}

// isReachable tells whether the daemon says that a gateway answers: it hears of that later than the kernel knows.
func isReachable(t *testing.T, r *running, gateway netip.Addr) bool {
	t.Helper()
	s := harness.Must1[*metrics.Snapshot](t)(r.Snapshot())
	return slices.ContainsFunc(s.Gateways, func(g metrics.Gateway) bool { return g.Address == gateway && g.Reachable })
}

// TestFlapIsNoRepair: what goes with the carrier, or with the interface's MAC, was taken by
// nobody. What somebody deletes is counted, before and after, be it the only gateway of
// the default routes or not.
func TestFlapIsNoRepair(t *testing.T) {
	for name, flap := range flaps {
		for _, f := range []topology.Family{topology.IPv4, topology.IPv6} {
			t.Run(fmt.Sprintf("%s/%s", name, f), func(t *testing.T) {
				s := newS1(t, topology.S1Options{})
				b := newBed(t, s.B.Host)
				eth0, eth1 := s.B.Eth0, s.B.Eth1
				gateways := map[*topology.Interface]netip.Addr{eth0: eth0.Gateway(f), eth1: eth1.Gateway(f)}
				routes := map[topology.Family]string{
					topology.IPv4: "route replace default via %s dev eth0\nroute replace 10.99.0.0/16 via %s dev eth1\n",
					topology.IPv6: "route replace default via %s dev eth0\nroute replace 2001:db8:99::/48 via %s dev eth1\n",
				}
				route := func() { b.ip(fmt.Sprintf(routes[f], gateways[eth0], gateways[eth1])) }
				route()
				for i := range gateways {
					for _, end := range []*topology.Interface{i, i.Peer()} {
						harness.Must(t, end.Host.SetSysctl("net/ipv6/conf/"+end.Name+"/keep_addr_on_down", "1"))
					}
				}
				r := b.start(nil)
				want, done := uint64(0), 0
				for range 2 {
					for i, gateway := range gateways {
						b.awaitKnown(i, gateway)
						flap(b, i)
						done++
						b.awaitUp(i.Name, true)
						route() // which the kernel takes away from a link that is set down
						b.awaitKnown(i, gateway)
						eventually(t, "the daemon knows that "+gateway.String()+" answers", func() bool { return isReachable(t, r, gateway) })
						if got := b.repairs(repairNeighbour); got != want {
							t.Fatalf("%d repairs after a flap of %s, want %d", got, i.Name, want)
						}
						b.ip(fmt.Sprintf("neighbour delete %s dev %s\n", gateway, i.Name))
						want++
						eventually(t, "the deletion is counted", func() bool { return b.repairs(repairNeighbour) == want })
					}
				}
				r.stop()
				got := b.repairs(repairNeighbour)
				if got != want {
					t.Errorf("%d repairs in the end, want %d", got, want)
				}
				t.Logf("%s: %d flaps, %d entries deleted: %d repairs counted", name, done, want, got)
			})
		}
	}
}
