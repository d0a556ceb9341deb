package nexthop

import (
	"bytes"
	"cmp"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"

	"replypath/bpf"
	"replypath/loader/discover"
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

// neighbours returns the neighbour entries of all interfaces.
func neighbours(nl *netlink.Handle) (map[location]*netlink.Neigh, error) {
	list, err := dump.Neighbours(nl)
	if err != nil {
		return nil, err
	}
	entries := make(map[location]*netlink.Neigh, len(list))
	for i := range list {
		entries[location{list[i].LinkIndex, dump.Address(list[i].IP)}] = &list[i]
	}
	return entries, nil
}

// Asked tells whether the kernel asks for the MAC of a neighbour of an interface that it has none of,
// in the family of an address, but for that address itself.
func Asked(nl *netlink.Handle, device int, but netip.Addr) (bool, error) {
	list, err := dump.Neighbours(nl)
	return slices.ContainsFunc(list, func(n netlink.Neigh) bool {
		address := dump.Address(n.IP)
		return n.LinkIndex == device && n.State == netlink.NUD_INCOMPLETE && address.Is4() == but.Is4() && address != but
	}), err
}

// StateNow returns the state of a gateway's neighbour entry.
func StateNow(nl *netlink.Handle, g Gateway) (string, error) {
	entries, err := neighbours(nl)
	if err != nil {
		return "", err
	}
	if entry := entries[location{g.Interface, g.Address}]; entry != nil {
		state, _ := wordOf(entry)
		return state, nil
	}
	return StateNone, nil
}

// resolve fills in what the kernel knows of a gateway.
func (g *Gateway) resolve(i discover.Interface, entries map[location]*netlink.Neigh) {
	entry := entries[location{g.Interface, g.Address}]
	switch {
	case entry != nil && i.MAC != nil:
		g.State, g.MAC = wordOf(entry)
	case i.NoARP:
		g.State = StateNoARP
	default:
		g.State = StateNone
	}
	// The kernel's own entries on an interface without ARP hold the MAC address
	// of the interface. Others are somebody's static entries.
	if g.State == StateNoARP && bytes.Equal(g.MAC, i.MAC) {
		g.MAC = nil
	}
}
