// SPDX-License-Identifier: Apache-2.0

package nexthop

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"replypath/test/await"
)

// TestWatchDetails: events tell by what it is decided whom they concern.
func TestWatchDetails(t *testing.T) {
	p := newPair(t)
	events := p.watch(t)
	ip(t, p.server, "link add c1 up type veth peer name far1\naddr add fe80::7/64 dev c1 nodad\naddr add 10.9.0.7 peer 10.9.0.1 dev c1\n")
	awaitEvent(t, events, "c1 comes", func(e Event) bool {
		return e.Kind == KindLink && e.Name == "c1" && e.LinkKind == "veth"
	})
	var ofLink, other bool // IPv6 tells of its own later than it has it
	awaitEvent(t, events, "a link-local address, and another one, with a peer", func(e Event) bool {
		ofLink, other = ofLink || e.Kind == KindAddress && !e.Global, other || e.Kind == KindAddress && e.Global
		return ofLink && other
	})
}

// A port that leaves a bridge does not go away by that.
func TestWatchBridgePort(t *testing.T) {
	p := newPair(t)
	ip(t, p.server, "link add br0 type bridge\nlink set eth0 master br0")
	events := p.watch(t)
	ip(t, p.server, "link set eth0 nomaster\nlink set eth0 alias last")
	links := 0
	awaitEvent(t, events, "the last change of eth0", func(e Event) bool {
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
	awaitEvent(t, events, "the neighbour at the end", func(e Event) bool {
		if e.Kind == KindNeighbour && e.Neighbour.Address == address("10.1.0.50") {
			t.Errorf("reported as a neighbour: %+v", e)
		}
		return e.Kind == KindNeighbour && e.Neighbour.Address == address("10.1.0.51")
	})
}

// TestPanicInAMessage: a message by which the parser panics, as the library's does by an empty attribute, stands for a lost one; and
// what panics while routes are read is an error.
func TestPanicInAMessage(t *testing.T) {
	message := syscall.NetlinkMessage{Header: syscall.NlMsghdr{Type: unix.RTM_NEWNEIGH}, Data: make([]byte, unix.SizeofNdMsg)}
	message.Data = slices.Clip(append(message.Data, nl.NewRtAttr(netlink.NDA_FLAGS_EXT, nil).Serialize()...))
	if e, ok := parseCaught(message); !ok || e.Kind != KindLost || !errors.Is(e.Err, errLost) {
		t.Errorf("event %+v", e)
	}
	if _, _, err := readAll([]*familyReader{{family: unix.AF_INET}}); err == nil {
		t.Error("routes are read without a socket")
	}
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
		await.Must(t, p.server.Netlink().AddrAdd(link, a))
		await.Must(t, p.server.Netlink().AddrDel(link, a))
	}
}

// endless are commands that change routes for ever.
type endless struct{}

func (endless) Read(p []byte) (int, error) {
	const lines = "route replace 10.7.0.0/16 dev eth0\nroute replace 10.7.0.0/16 via 10.1.0.1\n"
	return copy(p, strings.Repeat(lines, 1+len(p)/len(lines))[:len(p)/len(lines)*len(lines)]), nil
}

// TestWatchTellsOfLossInAFlood: a loss is reported while messages go on to come, so that neighbours are looked at meanwhile.
func TestWatchTellsOfLossInAFlood(t *testing.T) {
	p := newPair(t)
	var events <-chan Event
	await.Must(t, p.server.Do(func() (err error) {
		events, err = watch(t.Context(), 4<<10)
		return err
	}))
	for range 2 { // one has to wait for a processor at times
		flood := p.server.Command(t.Context(), "ip", "-batch", "-")
		flood.Stdin = endless{}
		await.Must(t, flood.Start())
		defer flood.Wait()
		defer flood.Process.Kill()
	}
	losses, want := 0, 100
	awaitEvent(t, events, fmt.Sprintf("%d losses while the flood lasts", want), func(e Event) bool {
		if e.Kind == KindLost {
			losses++
		}
		return losses == want
	})
}

// What overflows the buffer is reported, and what comes after the report is complete again.
func TestWatchReportsLostEvents(t *testing.T) {
	p := newPair(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var events <-chan Event
	await.Must(t, p.server.Do(func() (err error) {
		events, err = watch(ctx, 4<<10)
		return err
	}))
	p.change(t, 1000)
	lost := awaitEvent(t, events, "loss", func(e Event) bool { return e.Kind == KindLost })
	if !errors.Is(lost.Err, errLost) {
		t.Errorf("error %v", lost.Err)
	}
	for i := range 20 {
		neighbour := fmt.Sprintf("10.1.0.%d", i+2)
		ip(t, p.server, "neigh add "+neighbour+" dev eth0 lladdr 02:00:00:00:09:09 nud stale")
		awaitEvent(t, events, neighbour+", or another loss", func(e Event) bool { // the first may come while the socket is full
			return e.Kind == KindNeighbour && e.Neighbour.Address == address(neighbour) || i < 10 && e.Kind == KindLost
		})
	}
}
