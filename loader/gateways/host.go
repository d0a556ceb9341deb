// SPDX-License-Identifier: Apache-2.0

package gateways

import (
	"bytes"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"replypath/loader/attach"
	"replypath/loader/datapath"
	"replypath/loader/hostsettings"
	"replypath/loader/nexthop"
	"replypath/loader/pins"
	"replypath/loader/undo"
)

// Host is what a Table works with.
type Host struct {
	Netlink  func() *netlink.Handle
	Datapath func() *datapath.Datapath // in force
	Attacher func() attach.Means
	Log      *slog.Logger
	Tx       *undo.Tx
	Sysctls  *undo.Sysctls
	Journal  *pins.Journal // Gateways is written, Seeds and Sysctls are read
	Save     func() error  // writes the journal
	// Interface returns what is known of an interface by its index, NameOf what it is called in messages, be it served or not.
	Interface func(index int) Interface
	NameOf    func(index int) string
	// ChangeSysctl makes a change that was planned, unless the interface only observes; true the first time.
	ChangeSysctl func(change *hostsettings.Change, err error) (made bool, _ error)
	// Repaired counts a neighbour entry that somebody had deleted.
	Repaired func()

	WantsFallback func() bool              // there are to be fallback routes
	Defaults      func() []nexthop.Default // the other default routes
	// Renew has sockets look for an IPv6 route anew. It tells whether there is a device of fallback routes: without one,
	// nothing is done.
	Renew func() (hasDevice bool, err error)
}

// Interface is what a Table has to know of an interface. Of one that is not served it is the zero value.
type Interface struct {
	attach.Interface
	Up        bool
	Enforces  bool           // its mode in force is enforce
	HasHeader bool           // frames begin with an Ethernet header
	Attached  bool           // it has our programs
	Addresses []netip.Prefix // with their networks
}

func (i Interface) isServed() bool { return i.Index != 0 }

// unlessGone is nil for the error of an interface that has just gone, or down: the next reconciliation sees that.
func unlessGone(err error) error {
	if errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENETDOWN) {
		return nil
	}
	return err
}

// mayHold tells whether a gateway is one whose silence is bridged. Without a carrier the kernel goes over to no other
// one of the same interface that would answer.
func (h *Host) mayHold(g *gateway) bool {
	s := h.Interface(g.Interface)
	return (g.only || g.alone && !s.Up) && h.WantsFallback() && s.Enforces &&
		(!g.isUnknown() || s.HasHeader && s.Attached) // our programs have everybody asked for it
}

// askUnknownEvery is how often the check of a MAC that nobody has is begun anew: after the last question of the kernel's
// that may be heeded, and before it fails the entry. By IPv4 it heeds no answer for a while after an entry was written (`locktime`,
// arp_process() in net/ipv4/arp.c). Where it asks less than that, it is left to fail.
func (h *Host) askUnknownEvery(g *gateway) time.Duration {
	value := func(leaf string) int {
		n, err := hostsettings.ReadNumber(hostsettings.NeighbourKey(addressFamily(g), h.NameOf(g.Interface), leaf))
		if err != nil {
			return 0
		}
		return n
	}
	retransmission, questions := time.Duration(value("retrans_time_ms"))*time.Millisecond, value("ucast_solicit")
	if retransmission == 0 || questions == 0 {
		return askUnknownEvery
	}
	last := time.Duration(questions-1) * retransmission
	if lock := time.Duration(value("locktime")) * lockUnit; g.Address.Is4() && last <= lock || last == 0 {
		return last + retransmission + time.Second
	}
	return last + retransmission/5
}

// lockUnit is that of `locktime`: a hundredth of a second (USER_HZ), whatever the kernel's ticks are.
const lockUnit = 10 * time.Millisecond

// noteDeletion counts an entry that somebody deletes and that is put back, and tells whether this one was. The kernel has it
// fail first, without a question; one that goes for other reasons, with the carrier, a MAC
// of the interface's own or for want of use, goes as it is. Events tell that in order;
// what is read in between may be of a moment after the next.
func (h *Host) noteDeletion(g *gateway, seen nexthop.Gateway) (counted bool) {
	switch seen.State {
	case nexthop.StateFailed:
		unasked := g.State == nexthop.StateReachable || g.State == nexthop.StateStale
		g.deleting = g.deleting || seen.Requested && !g.wroteLast && !g.isNobodys() || unasked
		return false
	case nexthop.StateNone:
		s := h.Interface(g.Interface)
		if counted = g.deleting && s.Enforces && s.Up; counted {
			h.Repaired()
			h.Log.Info("the gateway's neighbour entry was deleted, put back", "interface", s.Name, "gateway", g.Address)
		}
	}
	g.deleting = false
	return counted
}

func (h *Host) logHeld(g *gateway, isUp bool) {
	why := "gateway does not answer"
	if !isUp {
		why = "gateway cannot be asked without a carrier"
	}
	h.Log.Warn(why+": its neighbour entry is held, so that replies by other interfaces are built",
		"interface", h.NameOf(g.Interface), "gateway", g.Address, "mac", g.macOrNone())
}

func (h *Host) logMAC(g *gateway, mac net.HardwareAddr) {
	switch {
	case g.mac == nil:
		h.Log.Info("gateway is resolved", "interface", h.NameOf(g.Interface), "gateway", g.Address, "mac", mac.String())
	case !bytes.Equal(g.mac, mac):
		h.Log.Info("gateway has another mac", "interface", h.NameOf(g.Interface), "gateway", g.Address,
			"mac", mac.String(), "before", g.mac.String())
	}
}
