// SPDX-License-Identifier: Apache-2.0

package nexthop

import (
	"encoding/binary"
	"fmt"
	"syscall"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"replypath/loader/discover/dump"
	"replypath/loader/problems"
)

// Kind says what an event is about.
type Kind int

// Kinds of events.
const (
	// KindLink: an interface came, went or changed, its ports included.
	KindLink Kind = iota
	// KindAddress: an interface got, lost or changed an address.
	KindAddress
	// KindRoute: a route came, went or changed.
	KindRoute
	// KindRule: a rule came or went.
	KindRule
	// KindNexthop: a nexthop object came, went or changed.
	KindNexthop
	// KindNeighbour: a neighbour entry got another state or MAC address.
	KindNeighbour
	// KindSysctl: rp_filter or forwarding was written.
	KindSysctl
	// KindLost: events were dropped; whatever they were about has to be read
	// anew.
	KindLost
)

// Event is a change in the network namespace.
type Event struct {
	Kind Kind
	// Interface is the index of what changed, managed or not; 0 where the event
	// names none, or several.
	Interface int
	// Removed tells that the interface, address or route has gone (KindLink,
	// KindAddress and KindRoute).
	Removed bool
	// Name and LinkKind are those of a KindLink: "veth", "bridge", "device" where the message does not tell.
	Name, LinkKind string
	// Global tells that the address is not one of the link or of this host alone (KindAddress).
	Global bool
	// Route is the one of a KindRoute.
	Route *dump.Route
	// NoCarrier tells that the link had none when the event was made (KindLink). It may be
	// back already.
	NoCarrier bool
	// Neighbour is the entry of a KindNeighbour, of a gateway or any other
	// neighbour. IPv4 and IPv6 are not set; the state of one that was deleted is
	// StateNone.
	Neighbour Gateway
	// Err says why events were lost.
	Err error
}

// The format of RTM_NEWNETCONF, from linux/netconf.h.
const (
	sizeofNetconfmsg = 4 // a single byte, padded
	netconfIfindex   = 1 // NETCONFA_IFINDEX
	netconfForwards  = 2 // NETCONFA_FORWARDING
	netconfRPFilter  = 3 // NETCONFA_RP_FILTER
)

// parse turns a message into an event; false for those that nothing depends on.
// A message that makes no sense stands for a lost one.
func parse(m syscall.NetlinkMessage) (Event, bool) {
	header, read := reader(m.Header.Type)
	if read == nil {
		return Event{}, false
	}
	if len(m.Data) < header {
		return lost(m, "is too short"), true
	}
	return read(m)
}

// parseCaught is parse for a message of which it may not even know that it makes no sense.
func parseCaught(m syscall.NetlinkMessage) (e Event, ok bool) {
	err := problems.Caught(func() error { e, ok = parse(m); return nil })
	if err != nil {
		return Event{Kind: KindLost, Err: fmt.Errorf("%w: a message of type %d: %w", errLost, m.Header.Type, err)}, true
	}
	return e, ok
}

// reader returns the function for a type of message, and the length of the
// header that it relies on.
func reader(messageType uint16) (int, func(syscall.NetlinkMessage) (Event, bool)) {
	switch messageType {
	case unix.RTM_NEWLINK, unix.RTM_DELLINK:
		return unix.SizeofIfInfomsg, linkEvent
	case unix.RTM_NEWADDR, unix.RTM_DELADDR:
		return unix.SizeofIfAddrmsg, addressEvent
	case unix.RTM_NEWROUTE, unix.RTM_DELROUTE:
		return unix.SizeofRtMsg, routeEvent
	case unix.RTM_NEWRULE, unix.RTM_DELRULE:
		return 0, func(syscall.NetlinkMessage) (Event, bool) { return Event{Kind: KindRule}, true }
	case unix.RTM_NEWNEXTHOP, unix.RTM_DELNEXTHOP:
		return 0, func(syscall.NetlinkMessage) (Event, bool) { return Event{Kind: KindNexthop}, true }
	case unix.RTM_NEWNEIGH, unix.RTM_DELNEIGH:
		return unix.SizeofNdMsg, neighbourEvent
	case unix.RTM_NEWNETCONF:
		return sizeofNetconfmsg, netconfEvent
	}
	return 0, nil
}

func lost(m syscall.NetlinkMessage, why string) Event {
	return Event{Kind: KindLost, Err: fmt.Errorf("%w: a message of type %d %s", errLost, m.Header.Type, why)}
}

// linkEvent also reads what a bridge says of its ports, in messages of its own
// family: RTM_DELLINK then is a port that left, not an interface that went.
func linkEvent(m syscall.NetlinkMessage) (Event, bool) {
	info := nl.DeserializeIfInfomsg(m.Data)
	link, err := netlink.LinkDeserialize(nil, m.Data)
	if err != nil {
		return lost(m, err.Error()), true
	}
	removed := m.Header.Type == unix.RTM_DELLINK && info.Family == unix.AF_UNSPEC
	noCarrier := info.Flags&unix.IFF_LOWER_UP == 0
	return Event{
		Kind: KindLink, Interface: link.Attrs().Index, Removed: removed, NoCarrier: noCarrier && !removed,
		Name: link.Attrs().Name, LinkKind: link.Type(),
	}, true
}

func addressEvent(m syscall.NetlinkMessage) (Event, bool) {
	info := nl.DeserializeIfAddrmsg(m.Data)
	return Event{
		Kind: KindAddress, Interface: int(info.Index), Removed: m.Header.Type == unix.RTM_DELADDR,
		Global: info.Scope < unix.RT_SCOPE_LINK,
	}, true
}

// routeEvent leaves out the kernel's exceptions for single peers.
func routeEvent(m syscall.NetlinkMessage) (Event, bool) {
	if dump.IsException(m.Data) {
		return Event{}, false
	}
	r, err := dump.ParseRoute(m.Data)
	if err != nil {
		return lost(m, err.Error()), true
	}
	isOfIP := r.Family == unix.AF_INET || r.Family == unix.AF_INET6 // of multicast there are others
	return Event{Kind: KindRoute, Removed: m.Header.Type == unix.RTM_DELROUTE, Route: &r}, isOfIP
}

// neighbourEvent leaves out forwarding entries of bridges and VXLAN devices,
// which come in the same group, and addresses that the host answers for as a
// proxy.
func neighbourEvent(m syscall.NetlinkMessage) (Event, bool) {
	n, err := netlink.NeighDeserialize(m.Data)
	if err != nil {
		return lost(m, err.Error()), true
	}
	isNeighbour := n.Family == unix.AF_INET || n.Family == unix.AF_INET6
	if !isNeighbour || n.Flags&netlink.NTF_PROXY != 0 {
		return Event{}, false
	}
	g := Gateway{Interface: n.LinkIndex, Address: dump.Address(n.IP), State: StateNone}
	if m.Header.Type == unix.RTM_NEWNEIGH {
		g.State, g.MAC = wordOf(n)
		// The kernel names the socket by which it was asked (__neigh_update()), 0 for none.
		g.Requested = g.State == StateFailed && m.Header.Pid != 0
	}
	return Event{Kind: KindNeighbour, Interface: n.LinkIndex, Neighbour: g}, true
}

// netconfEvent picks the messages about rp_filter and forwarding. The index is negative for
// the settings "all" and "default".
func netconfEvent(m syscall.NetlinkMessage) (Event, bool) {
	attrs, err := nl.ParseRouteAttrAsMap(m.Data[sizeofNetconfmsg:])
	if err != nil {
		return lost(m, err.Error()), true
	}
	e := Event{Kind: KindSysctl}
	if index := attrs[netconfIfindex].Value; len(index) == 4 {
		e.Interface = max(0, int(int32(binary.NativeEndian.Uint32(index))))
	}
	_, isRPFilter := attrs[netconfRPFilter]
	_, isForwarding := attrs[netconfForwards]
	return e, isRPFilter || isForwarding
}
