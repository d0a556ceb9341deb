// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"testing"

	"github.com/vishvananda/netlink"

	"replypath/loader/pins"
	"replypath/test/await"
	"replypath/test/topology"
)

// knownFirst and everybodyAgain are the settings by which the kernel asks for a neighbour that it knew.
const (
	knownFirst     = "ucast_solicit"
	everybodyAgain = "mcast_resolicit"
)

// absentRouters are addresses of eth0's networks that nobody has, firstMAC is that of the router that the kernel believes in.
var (
	absentRouters = map[topology.Family]netip.Addr{
		topology.IPv4: netip.MustParseAddr("10.3.0.77"), topology.IPv6: netip.MustParseAddr("2001:db8:3::77"),
	}
	firstMAC, otherMAC = net.HardwareAddr{2, 0, 0, 9, 9, 1}, net.HardwareAddr{2, 0, 0, 9, 9, 2}
)

// setAbsent has the kernel believe something of such a router.
func (b *server) setAbsent(f topology.Family, mac net.HardwareAddr, state int) {
	b.Helper()
	b.setNeighbour(b.eth0, absentRouters[f], mac, state)
}

// leadByAbsent has the default route of a family lead by such a router, in which the kernel believes.
func (b *server) leadByAbsent(f topology.Family) {
	b.Helper()
	b.setAbsent(f, firstMAC, netlink.NUD_REACHABLE)
	b.ip(fmt.Sprintf("route replace default via %s dev eth0", absentRouters[f]))
	b.awaitKnown(b.eth0, absentRouters[f])
}

// holdAbsent has such a router give no answer, and awaits that it is held.
func (b *server) holdAbsent(f topology.Family) {
	b.Helper()
	b.leadByAbsent(f)
	b.setAbsent(f, nil, netlink.NUD_FAILED)
	b.awaitHeld(f, true)
}

// isAbsent tells whether something is true of the record of such a router.
func (b *server) isAbsent(f topology.Family, is func(pins.GatewayRecord) bool) bool {
	b.Helper()
	return slices.ContainsFunc(b.journal().Gateways, func(r pins.GatewayRecord) bool {
		return r.Address == absentRouters[f].String() && is(r)
	})
}

func (b *server) awaitHeld(f topology.Family, want bool) {
	b.Helper()
	eventually(b.T, fmt.Sprintf("%s is held: %t", absentRouters[f], want), func() bool {
		return b.isAbsent(f, func(r pins.GatewayRecord) bool { return r.Held == want })
	})
}

// TestOthersAreAskedAsUsual: while the kernel asks for another neighbour of the interface, how often the known MAC is asked
// first is not changed, nor put back, under the questions that it counts; it is as soon as it asks for none.
func TestOthersAreAskedAsUsual(t *testing.T) {
	b := newServer(t)
	r := b.start()
	for _, f := range b.net.Families() {
		other := netlink.Neigh{LinkIndex: b.eth0.Index, IP: absentRouters[f].Prev().AsSlice()}
		askInVain := func() { // for as long as the test may take
			b.setSysctl("net/"+f.String()+"/neigh/eth0/retrans_time_ms", "60000")
			asked := other
			asked.State, asked.Flags = netlink.NUD_NONE, netlink.NTF_USE
			await.Must(t, b.host.Netlink().NeighSet(&asked))
		}
		want := func(when, want string) {
			t.Helper()
			await.Same(t, f.String()+", "+when+": settings", want, b.askingSettings(f))
		}
		wantAlone := func(when, settings string) {
			t.Helper()
			await.Must(t, b.host.Netlink().NeighDel(&other))
			r.locked(func() error { return r.reconcile() })
			want(when, settings)
		}
		askInVain()
		b.holdAbsent(f)
		want("held, asking", "3 3")
		wantAlone("held", "0 3")
		askInVain()
		b.setAbsent(f, otherMAC, netlink.NUD_REACHABLE)
		b.awaitHeld(f, false)
		want("not held, asking", "0 3")
		wantAlone("not held", "3 0")
	}
}

func (b *server) askingSettings(f topology.Family) string {
	b.Helper()
	setting := "net/" + f.String() + "/neigh/eth0/"
	return b.sysctl(setting+knownFirst) + " " + b.sysctl(setting+everybodyAgain)
}

// TestStopWhileBridged: the MAC that a gateway's entry was given while it had not answered is nobody's answer for the next
// daemon either.
func TestStopWhileBridged(t *testing.T) {
	b := newServer(t)
	r := b.start()
	for _, f := range b.net.Families() {
		b.leadByAbsent(f)
	}
	flaps["carrier"](b, b.eth0)
	for _, f := range b.net.Families() {
		eventually(t, "it is bridged", func() bool { return b.isAbsent(f, func(r pins.GatewayRecord) bool { return r.Bridged }) })
	}
	r.stop()
	b.start()
	for _, f := range b.net.Families() {
		b.awaitHeld(f, true) // once it has been asked in vain
		await.Same(t, f.String()+": times that it is said to be resolved, before the stop", 1, b.logged(`msg="gateway is resolved" interface=eth0 gateway=`+absentRouters[f].String()))
	}
}
