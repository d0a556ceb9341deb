// SPDX-License-Identifier: Apache-2.0

package nexthop

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	testawait "replypath/test/await"
)

func TestWatch(t *testing.T) {
	eth0 := func(p *pair) int { return p.eth0.Index }
	none := func(*pair) int { return 0 }
	for _, test := range []struct {
		what, before, change string
		kind                 Kind
		device               func(*pair) int
		removed              bool
	}{
		{what: "IPv4 address", change: "addr add 10.5.0.1/24 dev eth0", kind: KindAddress, device: eth0},
		{what: "IPv4 address removed", change: "addr del 10.1.0.100/24 dev eth0", kind: KindAddress, device: eth0, removed: true},
		{what: "IPv6 address", change: "addr add 2001:db8:5::1/64 dev eth0", kind: KindAddress, device: eth0},
		{what: "IPv6 address removed", change: "addr del 2001:db8:1::100/64 dev eth0", kind: KindAddress, device: eth0, removed: true},
		{what: "IPv4 route", change: "route add 10.9.0.0/16 via 10.1.0.1 table 7", kind: KindRoute, device: none},
		{what: "IPv4 route removed", before: "route add 10.9.0.0/16 via 10.1.0.1", change: "route del 10.9.0.0/16", kind: KindRoute, device: none, removed: true},
		{what: "IPv6 route", change: "route add 2001:db8:9::/48 via 2001:db8:1::1 table 7", kind: KindRoute, device: none},
		{what: "IPv6 route removed", before: "route add default via 2001:db8:1::1", change: "route del default via 2001:db8:1::1", kind: KindRoute, device: none, removed: true},
		{what: "IPv4 rule", change: "rule add prio 40000 table 7", kind: KindRule, device: none},
		{what: "IPv6 rule removed", before: "-6 rule add prio 40000 table 7", change: "-6 rule del prio 40000", kind: KindRule, device: none},
		{what: "nexthop object", change: "nexthop add id 7 via 10.1.0.7 dev eth0", kind: KindNexthop, device: none},
		{what: "nexthop object removed", before: "nexthop add id 7 via 10.1.0.7 dev eth0", change: "nexthop del id 7", kind: KindNexthop, device: none},
		{what: "MTU", change: "link set eth0 mtu 1400", kind: KindLink, device: eth0},
		{what: "set down", change: "link set eth0 down", kind: KindLink, device: eth0},
		{what: "link removed", change: "link del eth0", kind: KindLink, device: eth0, removed: true},
	} {
		t.Run(test.what, func(t *testing.T) {
			p := newPair(t)
			ip(t, p.server, test.before)
			events := p.watch(t)
			ip(t, p.server, test.change)
			await(t, events, test.what, func(e Event) bool {
				return e.Kind == test.kind && e.Interface == test.device(p) && e.Removed == test.removed
			})
		})
	}
}

// TestWatchDetails: events tell by what it is decided whom they concern.
func TestWatchDetails(t *testing.T) {
	p := newPair(t)
	events := p.watch(t)
	ip(t, p.server, "link add c1 up type veth peer name far1\naddr add fe80::7/64 dev c1 nodad\naddr add 10.9.0.7 peer 10.9.0.1 dev c1\n")
	await(t, events, "c1 comes", func(e Event) bool {
		return e.Kind == KindLink && e.Name == "c1" && e.LinkKind == "veth"
	})
	var ofLink, other bool // IPv6 tells of its own later than it has it
	await(t, events, "a link-local address, and another one, with a peer", func(e Event) bool {
		ofLink, other = ofLink || e.Kind == KindAddress && !e.Global, other || e.Kind == KindAddress && e.Global
		return ofLink && other
	})
}

// A gateway stays one without a carrier, of whose loss an event tells.
func TestWatchLostCarrier(t *testing.T) {
	p := newPair(t)
	ip(t, p.server, "route add default via 10.1.0.1")
	events := p.watch(t)
	testawait.Must(t, p.r0.SetDown())
	await(t, events, "eth0 without a carrier", func(e Event) bool {
		return e.Kind == KindLink && e.Interface == p.eth0.Index && !p.manage(t)[0].Up
	})
	check(t, p.gateways(t), bare(p.eth0.Index, "10.1.0.1", 4))
}

func TestWatchNeighbours(t *testing.T) {
	for _, neighbour := range []netip.Addr{address("10.1.0.7"), address("2001:db8:1::7"), address("fe80::7")} {
		t.Run(neighbour.String(), func(t *testing.T) {
			p := newPair(t)
			events := p.watch(t)
			expect := func(state, mac string) {
				t.Helper()
				g := awaitState(t, events, neighbour, state)
				if g.Interface != p.eth0.Index || g.MAC.String() != mac {
					t.Errorf("%s at %q on interface %d, want %q on %d", state, g.MAC, g.Interface, mac, p.eth0.Index)
				}
			}
			entry := neighbour.String() + " dev eth0"
			ip(t, p.server, "neigh add "+entry+" lladdr 02:00:00:00:09:09 nud stale")
			expect(StateStale, "02:00:00:00:09:09")
			ip(t, p.server, "neigh replace "+entry+" lladdr 02:00:00:00:08:08 nud reachable")
			expect(StateReachable, "02:00:00:00:08:08")
			ip(t, p.server, "neigh del "+entry)
			expect(StateNone, "")
		})
	}
}

func TestWatchSysctls(t *testing.T) {
	p := newPair(t)
	events := p.watch(t)
	for setting, index := range map[string]int{
		"net/ipv4/conf/eth0/rp_filter=1": p.eth0.Index, "net/ipv4/conf/all/rp_filter=1": 0,
		"net/ipv4/conf/eth0/forwarding=1": p.eth0.Index, "net/ipv6/conf/eth0/forwarding=1": p.eth0.Index,
	} {
		sysctl(t, p.server, setting)
		await(t, events, setting, func(e Event) bool { return e.Kind == KindSysctl && e.Interface == index })
	}
}

// A port that leaves a bridge does not go away by that.
func TestWatchBridgePort(t *testing.T) {
	p := newPair(t)
	ip(t, p.server, "link add br0 type bridge\nlink set eth0 master br0")
	events := p.watch(t)
	ip(t, p.server, "link set eth0 nomaster\nlink set eth0 alias last")
	links := 0
	await(t, events, "the last change of eth0", func(e Event) bool {
		if e.Kind == KindLink && e.Interface == p.eth0.Index {
			links++
		}
		if e.Kind == KindLink && e.Removed {
			t.Errorf("interface %d is said to have gone", e.Interface)
		}
		link, err := p.eth0.Link()
		if err != nil {
			t.Fatal(err)
		}
		return links > 1 && link.Attrs().Alias == "last"
	})
}

// Addresses of foreign kinds of neighbours are not mistaken for gateways.
func TestWatchOnlyNeighbours(t *testing.T) {
	p := newPair(t)
	events := p.watch(t)
	ip(t, p.server, `
link add vxlan0 type vxlan id 1 dstport 4789 local 10.1.0.100
link set vxlan0 up
neigh add proxy 10.1.0.50 dev eth0
`)
	c := p.server.Command(t.Context(), "bridge", "fdb", "add", "02:00:00:00:07:07", "dev", "vxlan0", "dst", "10.1.0.50")
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("bridge: %v\n%s", err, out)
	}
	ip(t, p.server, "neigh add 10.1.0.51 dev eth0 lladdr 02:00:00:00:09:09 nud stale")
	await(t, events, "the neighbour at the end", func(e Event) bool {
		if e.Kind == KindNeighbour && e.Neighbour.Address == address("10.1.0.50") {
			t.Errorf("reported as a neighbour: %+v", e)
		}
		return e.Kind == KindNeighbour && e.Neighbour.Address == address("10.1.0.51")
	})
}

func TestWatchEndsWithItsContext(t *testing.T) {
	p := newPair(t)
	before := descriptors(t)
	for _, name := range []string{"idle", "with events that nobody takes"} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			var events <-chan Event
			testawait.Must(t, p.server.Do(func() (err error) {
				events, err = Watch(ctx)
				return err
			}))
			if name != "idle" {
				p.change(t, 200)
			}
			cancel()
			timeout := time.After(patience)
			for open := true; open; {
				select {
				case _, open = <-events:
				case <-timeout:
					t.Fatal("the channel was not closed")
				}
			}
		})
	}
	if after := descriptors(t); after > before {
		t.Errorf("%d descriptors of sockets, %d before", after, before)
	}
}

// descriptors counts the sockets of this process.
func descriptors(t *testing.T) int {
	t.Helper()
	entries := testawait.Must1[[]os.DirEntry](t)(os.ReadDir("/proc/self/fd"))
	sockets := 0
	for _, e := range entries {
		if target, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil && strings.HasPrefix(target, "socket:") {
			sockets++
		}
	}
	return sockets
}

// change makes the kernel send two events n times.
func (p *pair) change(t *testing.T, n int) {
	t.Helper()
	link, err := p.eth0.Link()
	if err != nil {
		t.Fatal(err)
	}
	a := &netlink.Addr{IPNet: &net.IPNet{IP: net.IPv4(10, 7, 0, 1).To4(), Mask: net.CIDRMask(32, 32)}}
	for range n {
		testawait.Must(t, p.server.Netlink().AddrAdd(link, a))
		testawait.Must(t, p.server.Netlink().AddrDel(link, a))
	}
}

// What overflows the buffer is reported, and what comes after the report is complete again.
func TestWatchReportsLostEvents(t *testing.T) {
	p := newPair(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var events <-chan Event
	testawait.Must(t, p.server.Do(func() (err error) {
		events, err = watch(ctx, 4<<10)
		return err
	}))
	p.change(t, 1000)
	lost := await(t, events, "loss", func(e Event) bool { return e.Kind == KindLost })
	if !errors.Is(lost.Err, errLost) {
		t.Errorf("error %v", lost.Err)
	}
	for i := range 20 {
		neighbour := fmt.Sprintf("10.1.0.%d", i+2)
		ip(t, p.server, "neigh add "+neighbour+" dev eth0 lladdr 02:00:00:00:09:09 nud stale")
		await(t, events, neighbour+", or another loss", func(e Event) bool { // the first may come while the socket is full
			return e.Kind == KindNeighbour && e.Neighbour.Address == address(neighbour) || i < 10 && e.Kind == KindLost
		})
	}
}

// Whoever reads the tables once a loss was reported sees every later change as an event: what was queued must not keep
// the kernel dropping.
func TestReceiveIsCompleteAfterALoss(t *testing.T) {
	p := newPair(t)
	var s *socket
	testawait.Must(t, p.server.Do(func() (err error) {
		s, err = subscribe(4<<10, events...)
		return err
	}))
	defer s.close()
	testawait.Must(t, s.file.SetReadDeadline(time.Now().Add(patience)))
	p.change(t, 1000)
	if _, err := s.receive(); !errors.Is(err, errLost) {
		t.Fatalf("error %v, want a loss", err)
	}
	ip(t, p.server, "neigh add 10.1.0.7 dev eth0 lladdr 02:00:00:00:09:09 nud stale")
	messages, err := s.receive()
	if err != nil {
		t.Fatal(err)
	}
	if e, ok := parse(messages[0]); !ok || e.Neighbour.Address != address("10.1.0.7") {
		t.Errorf("the next event is %+v", e)
	}
}

// Only what the kernel sends is an event.
func TestWatchIgnoresForeignSenders(t *testing.T) {
	p := newPair(t)
	testawait.Must(t, p.server.Do(func() error {
		s, err := subscribe(receiveBuffer, events...)
		if err != nil {
			return err
		}
		defer s.close()
		var name unix.Sockaddr
		if control := s.conn.Control(func(fd uintptr) { name, err = unix.Getsockname(int(fd)) }); control != nil || err != nil {
			return errors.Join(control, err)
		}
		forger, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
		if err != nil {
			return err
		}
		defer unix.Close(forger)
		if err := unix.Sendto(forger, make([]byte, unix.SizeofNlMsghdr), 0, name); err != nil {
			return err
		}
		messages, err := s.receive()
		if len(messages) != 0 {
			t.Errorf("took a foreign message: %+v", messages)
		}
		return err
	}))
}

func TestParseBrokenMessages(t *testing.T) {
	message := func(kind uint16, data ...byte) syscall.NetlinkMessage {
		return syscall.NetlinkMessage{Header: syscall.NlMsghdr{Type: kind}, Data: data}
	}
	// An attribute that is longer than the message.
	tail := []byte{0xff, 0xff, 1, 0}
	for _, m := range []syscall.NetlinkMessage{
		message(unix.RTM_NEWLINK, 1, 2, 3),
		message(unix.RTM_NEWLINK, slices.Concat(make([]byte, unix.SizeofIfInfomsg), tail)...),
		message(unix.RTM_NEWADDR),
		message(unix.RTM_NEWROUTE, 1),
		message(unix.RTM_NEWNEIGH, 2),
		message(unix.RTM_NEWNEIGH, slices.Concat(make([]byte, unix.SizeofNdMsg), tail)...),
		message(unix.RTM_NEWNETCONF, 2),
		message(unix.RTM_NEWNETCONF, slices.Concat(make([]byte, 4), tail)...),
	} {
		e, ok := parse(m)
		if !ok || e.Kind != KindLost || !errors.Is(e.Err, errLost) {
			t.Errorf("type %d with %d bytes: %+v, %v", m.Header.Type, len(m.Data), e, ok)
		}
	}
	if e, ok := parse(message(unix.RTM_NEWQDISC)); ok {
		t.Errorf("a qdisc became %+v", e)
	}
	cloned := make([]byte, unix.SizeofRtMsg)
	cloned[9] = unix.RTM_F_CLONED >> 8 // rtm_flags
	if e, ok := parse(message(unix.RTM_NEWROUTE, cloned...)); ok {
		t.Errorf("an exception of the routing table became %+v", e)
	}
}

func TestKindWords(t *testing.T) {
	for kind := KindLink; kind <= KindLost; kind++ {
		if word := kind.String(); word == "" || strings.HasPrefix(word, "kind ") {
			t.Errorf("kind %d has no word", kind)
		}
	}
}
