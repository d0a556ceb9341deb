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
	"replypath/loader/attach"
	"replypath/loader/config"
	"replypath/loader/discover"
	"replypath/loader/nexthop"
	"replypath/loader/status"
	"replypath/test/await"
)

func TestInterfaceComesAndGoes(t *testing.T) {
	byEach(t, func(t *testing.T, mechanism attach.Mechanism) {
		b := newServer(t)
		b.start(by(mechanism))
		b.addEth2(0)
		index := b.awaitAttached("eth2").Index
		first := b.idsOf("eth2")
		if len(first) != 1 || b.entry(first[0]).Ifindex != uint32(index) {
			t.Errorf("ids %v of eth2, index %d", first, index)
		}
		for _, address := range []string{"10.77.0.1", "2001:db8:77::1"} {
			eventually(t, address+" is known", func() bool { return b.own(address) != 0 })
		}

		b.ip("link del eth2")
		b.awaitGone("eth2")
		// The journal says so first, the maps a moment later.
		eventually(t, "its entry and its address are gone", func() bool {
			return b.entry(first[0]) == (bpf.DatapathInterface{}) && b.own("10.77.0.1") == 0
		})

		b.addEth2(index)
		b.awaitAttached("eth2")
		second := b.idsOf("eth2")
		if len(second) != 2 || second[0] != first[0] || second[1] == first[0] {
			t.Fatalf("ids of two interfaces with one index: %v", second)
		}
		if b.entry(second[1]).Ifindex != uint32(index) || b.entry(first[0]).Ifindex != 0 {
			t.Errorf("entries %+v and %+v", b.entry(second[0]), b.entry(second[1]))
		}
	})
}

func TestLinkStateIsLive(t *testing.T) {
	b := newServer(t)
	b.start()
	id := b.idsOf("eth1")[0]
	if !b.isUp(id) {
		t.Fatal("not up at the start")
	}
	await.Must(t, b.eth1.Peer().SetDown())
	eventually(t, "lost carrier is seen", func() bool { return !b.isUp(id) && !b.status().of("eth1").Up })
	await.Must(t, b.eth1.Peer().SetUp())
	eventually(t, "carrier is seen", func() bool { return b.isUp(id) })

	await.Must(t, b.eth1.SetMTU(1400))
	mac := net.HardwareAddr{2, 0, 0, 1, 2, 3}
	await.Must(t, b.eth1.SetMAC(mac))
	eventually(t, "MTU and MAC are seen", func() bool {
		entry := b.entry(id)
		return entry.Mtu == 1400 && slices.Equal(entry.Mac[:], mac)
	})
}

func TestNamedInterfaceThatIsNotThereYet(t *testing.T) {
	b := newServer(t)
	b.start(func(o *Options) { o.Config.Interfaces = []config.Interface{{Name: "eth1"}, {Name: "eth2"}} })
	// That the default routes lead by eth0 is told as well.
	isOfEth2 := func(message string) bool { return strings.Contains(message, "interface eth2 is not there") }
	now := b.status()
	if !slices.ContainsFunc(now.Errors, isOfEth2) {
		t.Errorf("errors %v", now.Errors)
	}
	if !slices.ContainsFunc(now.Unmanaged, func(u status.Unmanaged) bool { return u.Name == "eth0" }) {
		t.Errorf("unmanaged %v", now.Unmanaged)
	}
	b.addEth2(0)
	b.awaitAttached("eth2")
	if status := b.status(); slices.ContainsFunc(status.Errors, isOfEth2) {
		t.Errorf("errors %v", status.Errors)
	}
}

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

// TestLostProgramsAreAttachedAgain: programs that somebody takes off are put back, and it stays the same interface.
func TestLostProgramsAreAttachedAgain(t *testing.T) {
	byEach(t, func(t *testing.T, mechanism attach.Mechanism) {
		b := newServer(t)
		r := b.start(by(mechanism))
		ids := b.idsOf("eth1")
		r.locked(func() error { // so that nothing is put back meanwhile
			await.Must(t, r.takeOff("eth1"))
			if b.status().of("eth1").Attached {
				t.Error("still attached")
			}
			return nil
		})
		b.awaitAttached("eth1")
		b.awaitRepairs(repairProgram, 1)
		wantSame(b, "ids", ids, b.idsOf("eth1"))
	})
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
