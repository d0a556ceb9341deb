// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"

	"replypath/bpf"
	"replypath/loader/config"
	"replypath/loader/counters"
	"replypath/loader/datapath"
	"replypath/loader/status"
	"replypath/test/await"
	"replypath/test/host"
	"replypath/test/topology"
)

func (b *server) setNeighbour(i *topology.Interface, address netip.Addr, mac net.HardwareAddr, state int) {
	b.Helper()
	await.Must(b.T, b.host.Netlink().NeighSet(&netlink.Neigh{
		LinkIndex: i.Index, IP: address.AsSlice(), HardwareAddr: mac, State: state,
	}))
}

// flaps are ways in which the kernel throws the neighbours of an interface away.
var flaps = map[string]func(*server, *topology.Interface){
	"carrier": func(b *server, i *topology.Interface) {
		await.Must(b.T, i.Peer().SetDown())
		b.awaitUp(i.Name, false)
		await.Must(b.T, i.Peer().SetUp())
	},
	"set down": func(b *server, i *topology.Interface) {
		await.Must(b.T, i.SetDown())
		b.awaitUp(i.Name, false)
		await.Must(b.T, i.SetUp())
	},
	"its own mac": func(b *server, i *topology.Interface) {
		mac := slices.Clone(b.linkOf(i.Name).Attrs().HardwareAddr)
		mac[5]++
		await.Must(b.T, i.SetMAC(mac))
	},
}

func (b *server) awaitUp(name string, want bool) {
	b.Helper()
	index := b.linkOf(name).Attrs().Index
	eventually(b.T, fmt.Sprintf("%s is up: %t", name, want), func() bool { return b.isUp(index) == want })
}

// awaitKnown waits until the kernel has a MAC for a gateway.
func (b *server) awaitKnown(i *topology.Interface, gateway netip.Addr) {
	b.Helper()
	eventually(b.T, gateway.String()+" is known", func() bool {
		of := b.status().of(i.Name)
		return slices.ContainsFunc(of.Gateways, func(g status.Gateway) bool {
			return g.Address == gateway.String() && g.MAC != nil
		})
	})
}

// isReachable tells whether the daemon says that a gateway answers: it hears of that later than the kernel knows.
func (r *running) isReachable(gateway netip.Addr) bool {
	return sum(r.counters(), counters.GatewayReachable, gateway.String()) > 0
}

// TestFlapIsNoRepair: what goes with the carrier, or with the interface's MAC, was taken by nobody. What somebody deletes is
// counted, before and after, be it the only gateway of the default routes or not.
func TestFlapIsNoRepair(t *testing.T) {
	for name, flap := range flaps {
		t.Run(name, func(t *testing.T) {
			b := newServer(t)
			for _, i := range []*topology.Interface{b.eth0, b.eth1} {
				for _, end := range []*topology.Interface{i, i.Peer()} {
					await.Must(t, end.Host.SetSysctl("net/ipv6/conf/"+end.Name+"/keep_addr_on_down", "1"))
				}
			}
			route := func() {
				b.ip(`route replace default via 10.3.0.1 dev eth0
route replace 10.99.0.0/16 via 10.4.0.1 dev eth1
route replace default via 2001:db8:3::1 dev eth0
route replace 2001:db8:99::/48 via 2001:db8:4::1 dev eth1`)
			}
			route()
			r := b.start()
			want, done := uint64(0), 0
			for range 2 {
				for _, i := range []*topology.Interface{b.eth0, b.eth1} {
					for _, f := range b.net.Families() {
						b.awaitKnown(i, i.Gateway(f))
					}
					flap(b, i)
					done++
					b.awaitUp(i.Name, true)
					route() // which the kernel takes away from a link that is set down
					for _, f := range b.net.Families() {
						gateway := i.Gateway(f)
						b.awaitKnown(i, gateway)
						eventually(t, "the daemon knows that "+gateway.String()+" answers", func() bool { return r.isReachable(gateway) })
					}
					if got := b.repairs(repairNeighbour); got != want {
						t.Fatalf("%d repairs after a flap of %s, want %d", got, i.Name, want)
					}
					for _, f := range b.net.Families() {
						b.ip(fmt.Sprintf("neighbour delete %s dev %s", i.Gateway(f), i.Name))
						want++
						b.awaitRepairs(repairNeighbour, want)
					}
				}
			}
			r.stop()
			got := b.repairs(repairNeighbour)
			await.Same(t, "repairs in the end", want, got)
			t.Logf("%s: %d flaps, %d entries deleted: %d repairs counted", name, done, want, got)
		})
	}
}

// askTables has rules ask two tables more, after the others.
func askTables(b *server) {
	b.Helper()
	host.Shell(b.T, b.host, "for f in -4 -6; do ip $f rule add prio 40000 table 7; ip $f rule add prio 40001 table 8; done")
}

// sourceGateways returns the gateways of own addresses, as the programs know them.
func (b *server) sourceGateways() map[string]string {
	b.Helper()
	names := make(map[uint32]string)
	for _, r := range b.journal().Gateways {
		names[uint32(r.ID)] = r.Address
	}
	found := make(map[string]string)
	for key, id := range entries[bpf.DatapathPrefixKey, uint32](b, b.maps().Prefixes) {
		if bpf.DatapathPrefixKind(key.Kind) == bpf.DatapathPrefixKindPREFIX_SOURCE {
			found[datapath.Address(key.Address).String()] = names[id]
		}
	}
	return found
}

// TestSourceGateways: with several gateways of everything, each address gets its own as routes and addresses come and go, and
// none where there is nothing to choose.
func TestSourceGateways(t *testing.T) {
	b := newServer(t)
	askTables(b)
	strong := func(o *Options) { o.Config.HostModel = config.HostModelStrong }
	r := b.start(strong)
	await := func(what string, want map[string]string) {
		t.Helper()
		eventually(t, what, func() bool { return cmp.Equal(b.sourceGateways(), want) })
	}
	b.ip(`addr add 10.5.0.100/24 dev eth1
addr add 2001:db8:5::100/64 dev eth1 nodad
route add default via 10.4.0.1 table 7
route add default via 2001:db8:4::1 table 7`)
	eventually(t, "one gateway of each family", func() bool { return len(b.status().of("eth1").Gateways) == 2 })
	none := map[string]string{}
	await("nothing that the source decides", none)
	before := b.settings().RoutingGeneration
	b.ip("route add default via 10.5.0.1 table 8\nroute add default from 2001:db8:5::/64 via fe80::5 dev eth1 table 8")
	both := map[string]string{
		"10.4.0.100": "10.4.0.1", "10.5.0.100": "10.5.0.1",
		"2001:db8:4::100": "2001:db8:4::1", "2001:db8:5::100": "fe80::5",
	}
	await("two", both)
	eventually(t, "what was decided before is void", func() bool { return b.settings().RoutingGeneration != before })
	r.stop()
	b.start(strong)
	await("a new process", both)
	b.ip("route del default table 7\naddr del 10.5.0.100/24 dev eth1\nroute del default from 2001:db8:5::/64 table 8")
	await("one again", none)
}
