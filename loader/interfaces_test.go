// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"replypath/bpf"
	"replypath/loader/attach"
	"replypath/loader/config"
	"replypath/loader/datapath"
	"replypath/loader/status"
	"replypath/test/harness"
	"replypath/test/topology"
)

// addEth2 adds an interface with addresses; index 0 leaves its index to the kernel.
func (b *bed) addEth2(index int) {
	b.Helper()
	which := ""
	if index != 0 {
		which = fmt.Sprintf("index %d", index)
	}
	b.ip("link add eth2 " + which + ` type veth peer name far2
link set far2 up
link set eth2 up
addr add 10.77.0.1/24 dev eth2
addr add 2001:db8:77::1/64 dev eth2 nodad
`)
}

func (b *bed) awaitAttached(name string) *status.Interface {
	b.Helper()
	var i *status.Interface
	eventually(b.T, name+" is attached", func() bool {
		i = b.status().of(name)
		return i != nil && i.Attached
	})
	return i
}

func (b *bed) awaitGone(name string) {
	b.Helper()
	eventually(b.T, name+" is gone", func() bool { return b.status().of(name) == nil })
}

func TestInterfaceComesAndGoes(t *testing.T) {
	for mechanism, options := range mechanisms {
		t.Run(string(mechanism), func(t *testing.T) {
			s := newS1(t, topology.S1Options{})
			b := newBed(t, s.B.Host)
			b.start(options)
			b.addEth2(0)
			index := b.awaitAttached("eth2").Index
			first := b.idsOf("eth2")
			if len(first) != 1 || b.entry(first[0]).Ifindex != uint32(index) {
				t.Errorf("ids %v of eth2, index %d", first, index)
			}
			for _, address := range []string{"10.77.0.1", "2001:db8:77::1"} {
				eventually(t, address+" is known", func() bool { return b.own()[netip.MustParseAddr(address)] != 0 })
			}

			b.ip("link del eth2\n")
			b.awaitGone("eth2")
			// The journal says so first, the maps a moment later.
			eventually(t, "its entry and its address are gone", func() bool {
				return b.entry(first[0]) == (bpf.DatapathInterface{}) && b.own()[netip.MustParseAddr("10.77.0.1")] == 0
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
}

// An interface that went and came while nobody watched is another one.
func TestReusedIndexIsSeenAtStart(t *testing.T) {
	for mechanism, options := range mechanisms {
		t.Run(string(mechanism), func(t *testing.T) {
			s := newS1(t, topology.S1Options{})
			b := newBed(t, s.B.Host)
			b.addEth2(0)
			r := b.start(options)
			index := b.status().of("eth2").Index
			first := b.idsOf("eth2")
			b.setRPFilter("eth2", 1)
			eventually(t, "rp_filter is loose", func() bool { return b.rpFilter("eth2") == "2" })
			r.stop()

			b.ip("link del eth2\n")
			b.addEth2(index)
			b.setRPFilter("eth2", 2)
			b.start(options)
			second := b.idsOf("eth2")
			if len(second) != 2 || second[1] == first[0] {
				t.Errorf("ids %v, before %v", second, first)
			}
			b.awaitAttached("eth2")
			for _, c := range otherChanges(b.status()) {
				if strings.HasPrefix(c.Object, "sysctl") {
					t.Errorf("a change of the old interface is left: %+v", c)
				}
			}
		})
	}
}

// An interface whose programs were taken off while nobody watched is the same one: the kernel
// has watched over the device.
func TestInterfaceWithoutProgramsStays(t *testing.T) {
	for mechanism, options := range mechanisms {
		t.Run(string(mechanism), func(t *testing.T) {
			b := newBed(t, newS1(t, topology.S1Options{}).B.Host)
			b.start(options).stop()
			before := b.idsOf("eth1")
			b.inside(func() error {
				nl, err := netlink.NewHandle(unix.NETLINK_ROUTE)
				harness.Must(t, err)
				defer nl.Close()
				link, err := nl.LinkByName("eth1")
				harness.Must(t, err)
				programs := attach.New(filepath.Join(b.dir, datapath.LinksDir), nl, attach.Auto)
				return programs.Detach(attach.Interface{Index: link.Attrs().Index, Name: "eth1"})
			})
			b.start(options)
			if diff := cmp.Diff(before, b.idsOf("eth1")); diff != "" {
				t.Errorf("ids (-before +after):\n%s", diff)
			}
			b.awaitAttached("eth1")
		})
	}
}

func TestRenamedInterfaceKeepsItsID(t *testing.T) {
	s := newS1(t, topology.S1Options{})
	b := newBed(t, s.B.Host)
	b.addEth2(0)
	b.start(nil)
	before := b.idsOf("eth2")
	b.ip("link property add dev eth2 altname second\nlink set eth2 name eth3\n")
	eventually(t, "the name is seen", func() bool { return len(b.idsOf("eth3")) > 0 })
	after := b.idsOf("eth3")
	if diff := cmp.Diff(before, after); diff != "" {
		t.Errorf("ids (-before +after):\n%s", diff)
	}
	t.Logf("ids of eth2 %v, of eth3, which it has become, %v", before, after)
}

func TestLinkStateIsLive(t *testing.T) {
	s := newS1(t, topology.S1Options{})
	b := newBed(t, s.B.Host)
	b.start(nil)
	id := b.idsOf("eth1")[0]
	up := func() bool { return b.entry(id).Flags&uint8(bpf.DatapathInterfaceFlagsINTERFACE_UP) != 0 }
	if !up() {
		t.Fatal("not up at the start")
	}
	harness.Must(t, s.B.Eth1.Peer().SetDown())
	eventually(t, "lost carrier is seen", func() bool { return !up() && !b.status().of("eth1").Up })
	harness.Must(t, s.B.Eth1.Peer().SetUp())
	eventually(t, "carrier is seen", up)

	harness.Must(t, s.B.Eth1.SetMTU(1400))
	mac := net.HardwareAddr{2, 0, 0, 1, 2, 3}
	harness.Must(t, s.B.Eth1.SetMAC(mac))
	eventually(t, "MTU and MAC are seen", func() bool {
		entry := b.entry(id)
		return entry.Mtu == 1400 && slices.Equal(entry.Mac[:], mac)
	})
}

func TestNamedInterfaceThatIsNotThereYet(t *testing.T) {
	s := newS1(t, topology.S1Options{})
	b := newBed(t, s.B.Host)
	b.start(func(o *Options) {
		o.Config.Interfaces = []config.Interface{{Name: "eth1"}, {Name: "eth2"}}
	})
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

// The programs find an interface by the low bits of its index.
func TestClashingIndexIsNotServed(t *testing.T) {
	s := newS1(t, topology.S1Options{})
	b := newBed(t, s.B.Host)
	b.start(nil)
	b.addEth2(s.B.Eth1.Index + 1<<16)
	eventually(t, "eth2 is refused", func() bool {
		return slices.ContainsFunc(b.status().Unmanaged, func(u status.Unmanaged) bool {
			return u.Name == "eth2" && strings.Contains(u.Reason, "eth1")
		})
	})
	pingB(t, s)
	if !b.status().of("eth1").Attached {
		t.Error("eth1 is not attached any more")
	}
}

// own returns the addresses that the programs take for the host's, with flags.
func (b *bed) own() map[netip.Addr]uint32 {
	b.Helper()
	own := make(map[netip.Addr]uint32)
	var (
		key   bpf.DatapathAddress
		flags uint32
	)
	entries := b.maps().OwnAddresses.Iterate()
	for entries.Next(&key, &flags) {
		own[netip.AddrFrom16(key.Bytes).Unmap()] = flags
	}
	harness.Must(b.T, entries.Err())
	return own
}

func TestOwnAddresses(t *testing.T) {
	s := newS1(t, topology.S1Options{})
	b := newBed(t, s.B.Host)
	b.ip(`addr add 192.0.2.1/32 dev lo
route add local 198.51.100.4/30 dev lo
route add local 203.0.113.0/24 dev eth0 table local
route add local 172.16.0.0/12 dev eth0
`)
	b.start(nil)
	own := b.own()
	const loopback = uint32(bpf.DatapathOwnFlagsOWN_ADDRESS | bpf.DatapathOwnFlagsOWN_LOOPBACK_ONLY)
	// Who originates by it wants to know whose it is: bpf/src/originate.h.
	var eth1ID uint32
	for _, r := range b.journal().Interfaces {
		if r.Name == "eth1" {
			eth1ID = uint32(r.ID) << bpf.DatapathOwnFlagsOWN_INTERFACE_SHIFT
		}
	}
	for address, want := range map[string]uint32{
		"10.4.0.100":      uint32(bpf.DatapathOwnFlagsOWN_ADDRESS) | eth1ID,
		"2001:db8:4::100": uint32(bpf.DatapathOwnFlagsOWN_ADDRESS) | eth1ID,
		"192.0.2.1":       loopback,
		"198.51.100.4":    loopback,
		"198.51.100.7":    loopback,
		"198.51.100.8":    0,
		"203.0.113.200":   uint32(bpf.DatapathOwnFlagsOWN_ADDRESS),
		"172.16.0.1":      0,
		"127.0.0.1":       0,
		"::1":             0,
	} {
		if got := own[netip.MustParseAddr(address)]; got != want {
			t.Errorf("%s: flags %d, want %d", address, got, want)
		}
	}
	if errs := b.status().Errors; len(errs) != 1 || !strings.Contains(errs[0], "172.16.0.0/12") {
		t.Errorf("errors %v", errs)
	}
	eth1, err := b.host.Netlink().LinkByName("eth1")
	harness.Must(t, err)
	harness.Must(t, b.host.Netlink().AddrAdd(eth1, &netlink.Addr{IPNet: &net.IPNet{IP: net.IPv4(10, 4, 0, 9), Mask: net.CIDRMask(24, 32)}}))
	eventually(t, "an address is seen", func() bool { return b.own()[netip.MustParseAddr("10.4.0.9")] != 0 })
}
