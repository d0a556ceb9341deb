// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"encoding/json"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"replypath/bpf"
	"replypath/loader/discover"
	"replypath/loader/nexthop"
	"replypath/loader/status"
	"replypath/test/await"
)

// TestClashingIndexIsNotServed, as the programs find an interface by the low bits of its index.
func TestClashingIndexIsNotServed(t *testing.T) {
	b := newServer(t)
	b.start()
	before := b.entry(b.idsOf("eth1")[0])
	b.addEth2(b.eth1.Index + 1<<16)
	eventually(t, "eth2 is refused", func() bool {
		return slices.ContainsFunc(b.status().Unmanaged, func(u status.Unmanaged) bool {
			return u.Name == "eth2" && strings.Contains(u.Reason, "eth1")
		})
	})
	wantSame(b, "the entry of eth1", before, b.entry(b.idsOf("eth1")[0]))
	if !b.status().of("eth1").Attached {
		t.Error("eth1 is not attached any more")
	}
}

// own returns what the programs know of an own address, 0 for none.
func (b *server) own(address string) uint32 {
	b.Helper()
	key := bpf.DatapathAddress{Bytes: netip.MustParseAddr(address).As16()}
	return entries[bpf.DatapathAddress, uint32](b, b.maps().OwnAddresses)[key]
}

func TestOwnAddresses(t *testing.T) {
	b := newServer(t)
	b.ip(`addr add 192.0.2.1/32 dev lo
route add local 198.51.100.4/30 dev lo
route add local 203.0.113.0/24 dev eth0 table local
route add local 172.16.0.0/12 dev eth0
`)
	b.start()
	const loopback = uint32(bpf.DatapathOwnFlagsOWN_ADDRESS | bpf.DatapathOwnFlagsOWN_LOOPBACK_ONLY)
	// Who originates by it wants to know whose it is: bpf/src/originate.h.
	ofEth1 := uint32(bpf.DatapathOwnFlagsOWN_ADDRESS) | uint32(b.idsOf("eth1")[0])<<bpf.DatapathOwnFlagsOWN_INTERFACE_SHIFT
	for address, want := range map[string]uint32{
		"10.4.0.100":      ofEth1,
		"2001:db8:4::100": ofEth1,
		"192.0.2.1":       loopback,
		"198.51.100.4":    loopback,
		"198.51.100.7":    loopback,
		"198.51.100.8":    0,
		"203.0.113.200":   uint32(bpf.DatapathOwnFlagsOWN_ADDRESS),
		"172.16.0.1":      0,
		"127.0.0.1":       0,
		"::1":             0,
	} {
		if got := b.own(address); got != want {
			t.Errorf("%s: flags %d, want %d", address, got, want)
		}
	}
	await.Same(t, "served", []status.Served{{Network: "172.16.0.0/12", Source: "route"}}, b.status().Addresses)
	added := &netlink.Addr{IPNet: &net.IPNet{IP: net.IPv4(10, 4, 0, 9), Mask: net.CIDRMask(24, 32)}}
	await.Must(t, b.host.Netlink().AddrAdd(b.linkOf("eth1"), added))
	eventually(t, "an address is seen", func() bool { return b.own("10.4.0.9") != 0 })
}

// TestJournalIsBounded: thousands of lives of an interface with gateways leave a small journal. Whom flows and counters name
// stays, and ids that are given again are nobody else's.
func TestJournalIsBounded(t *testing.T) {
	b := newAnsweringServer(t)
	r := b.start()
	b.ping()
	before := r.pairs()
	b.ip("link del eth1")
	b.awaitGone("eth1")
	eth1 := b.idsOf("eth1")
	const lives, atOnce = 4500, 10 // more than there are ids
	const most = 12 << 10
	r.locked(func() error {
		given := make(map[uint16]string)
		for life := 0; life < lives; life += atOnce {
			var found []discover.Interface
			var routers nexthop.Routers
			for n := range atOnce {
				index := 1<<20 + life + n
				found = append(found, discover.Interface{Index: index, Name: "eth9", MAC: net.HardwareAddr{2, 0, 0, 0, 0, 9}})
				for _, address := range []string{"10.9.0.1", "fe80::9"} {
					routers.Gateways = append(routers.Gateways, nexthop.Gateway{Interface: index, Address: netip.MustParseAddr(address)})
				}
			}
			err := errors.Join(r.interfaces.Adopt(found, bpf.DatapathModeMODE_CONFIGURED), r.gateways.Track(&routers), r.reconcile())
			if err != nil {
				return err
			}
		}
		for _, i := range r.state.Interfaces {
			if other, twice := given[i.ID]; twice {
				t.Errorf("id %d is that of %s and of %s", i.ID, other, i.Name)
			}
			given[i.ID] = i.Name
		}
		size := len(await.Must1[[]byte](t)(json.Marshal(&r.state)))
		t.Logf("%d lives: a journal of %d bytes, %d interfaces, %d gateways", lives, size, len(given), len(r.state.Gateways))
		if size > most {
			t.Errorf("what is gone stays in the journal: %d bytes, more than %d", size, most)
		}
		return nil
	})
	if !slices.Equal(b.idsOf("eth1"), eth1) {
		t.Errorf("ids of eth1 are %v, before %v", b.idsOf("eth1"), eth1)
	}
	wantSame(b, "what was counted for eth1", before, r.pairs())
	r.stop()
	wantSame(b, "in a trial", before, b.start(func(o *Options) { o.Trial = time.Hour }).pairs())
}
