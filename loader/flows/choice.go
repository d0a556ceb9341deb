// SPDX-License-Identifier: Apache-2.0

package flows

import (
	"errors"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"replypath/loader/discover"
	"replypath/loader/discover/dump"
)

// NoInterface is the kernel's choice where it has no route but to replypath's own device.
const NoInterface = "none"

// mostAsked bounds for how many pairs of addresses the kernel is asked for a route in one look.
const mostAsked = 4096

// chooser asks the kernel by which interface it would send replies as its routes are now.
type chooser struct {
	handle *netlink.Handle // nil until it is needed
	failed bool
	known  map[question]*string
	names  map[int]string // of interfaces, by index
	vrfs   map[string]int // indexes of VRFs, by the names of their ports
	own    map[netip.Addr]bool
}

// question is what the kernel is asked for a route by.
type question struct {
	peer, self string
	vrf        int // 0: none
}

func newChooser() *chooser {
	return &chooser{known: make(map[question]*string), own: make(map[netip.Addr]bool)}
}

func (c *chooser) close() {
	if c.handle != nil {
		c.handle.Close()
	}
}

// set sets the kernel's choice of a flow where it was another one than the flow's. It stays unknown of what is forwarded,
// and of more flows than are asked for.
func (c *chooser) set(f *Flow) {
	if !f.Asymmetric || f.State == StateOriginated || !c.isOpen() {
		return
	}
	q := question{peer: f.Peer, self: f.Self}
	if f.Interface != nil {
		q.vrf = c.vrfs[*f.Interface]
	}
	name, known := c.known[q]
	if !known && len(c.known) < mostAsked {
		name = c.ask(q)
		c.known[q] = name
	}
	f.KernelInterface = name
}

// isOpen looks at the host when that is first needed. If it cannot be looked at, nothing is known, and the flows are shown
// all the same.
func (c *chooser) isOpen() bool {
	if c.handle == nil && !c.failed {
		c.failed = c.open() != nil
	}
	return !c.failed
}

func (c *chooser) open() (err error) {
	if c.handle, err = netlink.NewHandle(unix.NETLINK_ROUTE); err != nil {
		return err
	}
	links, err := dump.Links(c.handle)
	if err != nil {
		return err
	}
	c.names, c.vrfs = namesOf(links), vrfsOf(links)
	addresses, err := dump.Addresses(c.handle)
	for _, a := range addresses {
		c.own[dump.Address(a.IP)] = true
	}
	return err
}

func namesOf(links []netlink.Link) map[int]string {
	names := make(map[int]string)
	for _, link := range links {
		names[link.Attrs().Index] = link.Attrs().Name
	}
	return names
}

// vrfsOf returns the indexes of VRFs by the names of their ports: the routes of replies are theirs.
func vrfsOf(links []netlink.Link) map[string]int {
	isVRF := make(map[int]bool)
	for _, link := range links {
		isVRF[link.Attrs().Index] = link.Type() == "vrf"
	}
	ports := make(map[string]int)
	for _, link := range links {
		if master := link.Attrs().MasterIndex; isVRF[master] {
			ports[link.Attrs().Name] = master
		}
	}
	return ports
}

// ask returns nil where the kernel does not say, and for what is forwarded: its answer would be that for another packet.
func (c *chooser) ask(q question) *string {
	peer, err1 := netip.ParseAddr(q.peer)
	self, err2 := netip.ParseAddr(q.self)
	if errors.Join(err1, err2) != nil || !c.own[self] {
		return nil
	}
	options := &netlink.RouteGetOptions{SrcAddr: net.IP(self.AsSlice()), OifIndex: q.vrf}
	routes, err := c.handle.RouteGetWithOptions(net.IP(peer.AsSlice()), options)
	switch {
	case errors.Is(err, unix.ENETUNREACH), errors.Is(err, unix.EHOSTUNREACH):
		return new(NoInterface)
	case err != nil || len(routes) == 0:
		return nil
	}
	switch name := c.names[routes[0].LinkIndex]; name {
	case "":
		return nil
	case discover.OwnDevice:
		return new(NoInterface)
	default:
		return &name
	}
}
