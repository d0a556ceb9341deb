// SPDX-License-Identifier: Apache-2.0

package nexthop

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"replypath/bpf"
	"replypath/loader/discover/dump"
)

// States of a gateway: the kernel's for neighbour entries (NUD_*), as ip(8)
// shows them, in lower case.
const (
	StateNone       = "none" // there is no entry
	StateIncomplete = "incomplete"
	StateReachable  = "reachable"
	StateStale      = "stale"
	StateDelay      = "delay"
	StateProbe      = "probe"
	StateFailed     = "failed"
	StateNoARP      = "noarp" // needs no resolution
	StatePermanent  = "permanent"
	// StateSilent is no word of the kernel's: the entry of one that never answered has a MAC that nobody has.
	StateSilent = "silent"
)

// Usable tells whether the kernel sends to a neighbour in this state at once,
// be it that it checks meanwhile whether the neighbour still answers. It is the
// kernel's NUD_VALID.
func Usable(state string) bool {
	switch state {
	case StateReachable, StateStale, StateDelay, StateProbe, StateNoARP, StatePermanent:
		return true
	}
	return false
}

// states are the words for the NUD_* bits of an entry.
var states = map[int]string{
	netlink.NUD_INCOMPLETE: StateIncomplete,
	netlink.NUD_REACHABLE:  StateReachable,
	netlink.NUD_STALE:      StateStale,
	netlink.NUD_DELAY:      StateDelay,
	netlink.NUD_PROBE:      StateProbe,
	netlink.NUD_FAILED:     StateFailed,
	netlink.NUD_NOARP:      StateNoARP,
	netlink.NUD_PERMANENT:  StatePermanent,
}

// stateOf returns the word for the state of an entry.
func stateOf(n *netlink.Neigh) string { return cmp.Or(states[n.State], StateNone) }

// macOf returns the Ethernet address of an entry, nil where it has none or one
// that has stopped answering.
func macOf(n *netlink.Neigh) net.HardwareAddr {
	if !Usable(stateOf(n)) || len(n.HardwareAddr) != 6 {
		return nil
	}
	return slices.Clone(n.HardwareAddr)
}

// wordOf returns state and Ethernet address of a gateway's entry. A MAC that stands for that of a silent gateway is none.
func wordOf(n *netlink.Neigh) (state string, mac net.HardwareAddr) {
	if mac = macOf(n); bpf.IsNobody(mac) {
		return StateSilent, nil
	}
	return stateOf(n), mac
}

// location is an address on an interface, or on any where device is 0.
type location struct {
	device  int
	address netip.Addr
}

// neighbours returns the neighbour entries of all interfaces.
func neighbours(handle *netlink.Handle) (map[location]*netlink.Neigh, error) {
	list, err := dump.Neighbours(handle)
	if err != nil {
		return nil, err
	}
	entries := make(map[location]*netlink.Neigh, len(list))
	for i := range list {
		entries[location{list[i].LinkIndex, dump.Address(list[i].IP)}] = &list[i]
	}
	return entries, nil
}

// entryOf returns the entry of an address on an interface, nil where there is none. The kernel is asked for this one alone, which
// it answers since Linux 5.0 (neigh_get() in net/core/neighbour.c): there may be tens of thousands of others.
func entryOf(device int, address netip.Addr) (*netlink.Neigh, error) {
	request := askNeighbours(0, address, device)
	request.AddData(nl.NewRtAttr(unix.NDA_DST, address.AsSlice()))
	messages, err := request.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWNEIGH)
	switch {
	case errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENODEV):
		return nil, nil
	case err != nil || len(messages) == 0:
		return nil, fmt.Errorf("look up neighbour %s on interface %d: %w", address, device, err)
	}
	return netlink.NeighDeserialize(messages[0])
}

func askNeighbours(flags int, like netip.Addr, device int) *nl.NetlinkRequest {
	family := unix.AF_INET6
	if like.Is4() {
		family = unix.AF_INET
	}
	request := nl.NewNetlinkRequest(unix.RTM_GETNEIGH, flags)
	request.AddData(&netlink.Ndmsg{Family: uint8(family), Index: uint32(device)})
	return request
}

// Asked tells whether the kernel asks for the MAC of a neighbour of an interface that it has none of,
// in the family of an address, but for that address itself. It works in the network namespace of the calling thread.
func Asked(device int, but netip.Addr) (asked bool, err error) {
	request := askNeighbours(unix.NLM_F_DUMP, but, 0)
	request.AddData(nl.NewRtAttr(unix.NDA_IFINDEX, nl.Uint32Attr(uint32(device))))
	err = request.ExecuteIter(unix.NETLINK_ROUTE, unix.RTM_NEWNEIGH, func(message []byte) bool {
		const state = 8 // where struct ndmsg has it: of thousands few are in this one
		if len(message) < unix.SizeofNdMsg || binary.NativeEndian.Uint16(message[state:]) != netlink.NUD_INCOMPLETE {
			return true
		}
		n, err := netlink.NeighDeserialize(message)
		asked = err == nil && n.LinkIndex == device && dump.Address(n.IP) != but
		return !asked
	})
	if err != nil {
		return asked, fmt.Errorf("list neighbours of interface %d: %w", device, err)
	}
	return asked, nil
}

// addressSet holds addresses of this host; link-local ones are an interface's
// own and may be a router's elsewhere.
type addressSet map[location]bool

func ownAddresses(handle *netlink.Handle) (addressSet, error) {
	addresses, err := dump.Addresses(handle)
	if err != nil {
		return nil, err
	}
	own := addressSet{}
	for i := range addresses {
		own[place(addresses[i].LinkIndex, dump.Address(addresses[i].IP))] = true
	}
	return own, nil
}

func (s addressSet) has(device int, address netip.Addr) bool { return s[place(device, address)] }

func place(device int, address netip.Addr) location {
	if !address.IsLinkLocalUnicast() {
		device = 0
	}
	return location{device, address}
}
