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
	"replypath/loader/pins"
	"replypath/test/topology"
)

// absentRouters are addresses of eth0's networks that nobody has, and firstMAC is that of the router that the kernel believes in.
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

// TestEverybodyIsAsked: while a gateway is silent the programs have everybody asked for it, by the MAC that it had last, and no
// longer once it has another.
func TestEverybodyIsAsked(t *testing.T) {
	b := newServer(t)
	r := b.start()
	for family, f := range map[uint8]topology.Family{4: topology.IPv4, 6: topology.IPv6} {
		key := bpf.DatapathGatewayMac{
			Ifindex: uint32(b.eth0.Index), Mac: [6]byte(firstMAC), Family: family, Word: uint8(bpf.DatapathGatewayWordGATEWAY_SILENT),
		}
		want := func(when string, want bool) {
			t.Helper()
			r.locked(func() error {
				if err := r.datapath.GatewayMacs.Lookup(key, new(uint32)); (err == nil) != want {
					t.Errorf("%s: %s: everybody is asked: %t (%v)", f, when, !want, err)
				}
				return nil
			})
		}
		b.leadByAbsent(f)
		want("believed", false)
		b.setAbsent(f, nil, netlink.NUD_FAILED)
		b.awaitHeld(f, true)
		want("held", true)
		b.setAbsent(f, otherMAC, netlink.NUD_REACHABLE)
		b.awaitHeld(f, false)
		want("another is there", false)
	}
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
		if n := b.logged(`msg="gateway is resolved" interface=eth0 gateway=` + absentRouters[f].String()); n != 1 {
			t.Errorf("%s: it is said %d times to be resolved, not only before the stop", f, n)
		}
	}
}
