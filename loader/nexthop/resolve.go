// SPDX-License-Identifier: Apache-2.0

package nexthop

import (
	"errors"
	"fmt"
	"net"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"replypath/bpf"
	"replypath/loader/discover/dump"
)

// Resolve asks the kernel to find out the gateway's MAC address, or to check
// the one that it has, as if it had a packet to send: RTM_NEWNEIGH with NTF_USE.
// The answer comes as an event of Watch. A missing or failed entry is asked for
// at once; a stale one stays usable and is asked after delay_first_probe_time
// (5 s). Where an answer is not awaited, nothing happens.
//
// The error is unix.ENODEV when the interface has gone.
func Resolve(nl *netlink.Handle, g Gateway) error {
	switch g.State {
	case StatePermanent, StateNoARP:
		// Nothing to find out; and NTF_USE would take a permanent entry's
		// permanence away (since 5.16).
		return nil
	}
	return enter(nl.NeighSet, g, netlink.Neigh{State: netlink.NUD_NONE, Flags: netlink.NTF_USE}, "resolve gateway %s", g.Address)
}

// PutBack enters the MAC address that a gateway had last, as a stale one: usable,
// and checked by the kernel once it is used. What waited for it is sent. Where the
// kernel has learnt another one meanwhile, that one stays: an entry that is valid is
// not overridden without NLM_F_REPLACE (neigh_add() in net/core/neighbour.c).
//
// The error is unix.ENODEV when the interface has gone.
func PutBack(nl *netlink.Handle, g Gateway, mac net.HardwareAddr) error {
	return enter(nl.NeighAppend, g, netlink.Neigh{HardwareAddr: mac, State: netlink.NUD_STALE},
		"put back mac %s of gateway %s", mac, g.Address)
}

// Probe enters a MAC address as one that the kernel is about to check: it is usable
// meanwhile, and asked at once whether it still answers, as many times as the
// sysctls ucast_solicit and mcast_resolicit say, a second apart. The answer comes
// as an event of Watch, StateReachable or StateFailed. As with PutBack, another one
// that the kernel has learnt stays.
//
// The error is unix.ENODEV when the interface has gone.
func Probe(nl *netlink.Handle, g Gateway, mac net.HardwareAddr) error {
	return enter(nl.NeighAppend, g, netlink.Neigh{HardwareAddr: mac, State: netlink.NUD_PROBE},
		"probe gateway %s with mac %s", g.Address, mac)
}

// Fail has the kernel take a gateway for one that does not answer, as it does itself once it has asked in vain: what
// waits for the answer is dropped, and IPv6 goes over to another router.
//
// The error is unix.ENODEV when the interface has gone.
func Fail(nl *netlink.Handle, g Gateway) error {
	return enter(nl.NeighSet, g, netlink.Neigh{State: netlink.NUD_FAILED}, "give up gateway %s", g.Address)
}

// enter does something to a gateway's neighbour entry. The rest says what, for an error.
func enter(do func(*netlink.Neigh) error, g Gateway, entry netlink.Neigh, format string, args ...any) error {
	entry.LinkIndex, entry.IP = g.Interface, g.Address.AsSlice()
	if err := do(&entry); err != nil {
		return fmt.Errorf("%s on interface %d: %w", fmt.Sprintf(format, args...), g.Interface, err)
	}
	return nil
}

// ForgetNobody deletes the entries that have a MAC that nobody has, and returns how many there were.
func ForgetNobody(nl *netlink.Handle) (deleted int, err error) {
	list, err := dump.Neighbours(nl)
	errs := []error{err}
	for i := range list {
		if !bpf.IsNobody(list[i].HardwareAddr) {
			continue
		}
		err := nl.NeighDel(&netlink.Neigh{LinkIndex: list[i].LinkIndex, IP: list[i].IP})
		switch {
		case err == nil:
			deleted++
		case !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ENODEV):
			errs = append(errs, fmt.Errorf("delete the neighbour entry of %s on interface %d: %w", list[i].IP, list[i].LinkIndex, err))
		}
	}
	return deleted, errors.Join(errs...)
}

// StateNow returns the state of a gateway's neighbour entry, in the network namespace of the calling thread.
func StateNow(g Gateway) (string, error) {
	entry, err := entryOf(g.Interface, g.Address)
	if entry == nil || err != nil {
		return StateNone, err
	}
	state, _ := wordOf(entry)
	return state, nil
}
