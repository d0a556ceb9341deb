// SPDX-License-Identifier: Apache-2.0

// Package gateways keeps the gateways of the managed interfaces: it has the kernel look for their MACs, and holds the
// neighbour entry of one that has stopped answering.
package gateways

import (
	"cmp"
	"errors"
	"net"
	"slices"
	"time"

	"replypath/loader/nexthop"
)

// Table owns the known gateways, and what is done to their neighbour entries. It is for one goroutine at a time.
type Table struct {
	host     *Host
	gateways map[gatewayKey]*gateway
	records  records
	settings askedSettings
	programs programs
	waiting  waiting
}

// New returns a Table of no gateways.
func New(host Host) *Table {
	h, known := &host, make(map[gatewayKey]*gateway)
	return &Table{
		host: h, gateways: known, records: records{h, known}, settings: askedSettings{h, known},
		programs: programs{h, connections{h}}, waiting: waiting{h},
	}
}

// View is a gateway as it is known now.
type View struct {
	nexthop.Gateway
	ID uint16 // index into the map `gateways`
	// ReplyMAC is what replies are sent to; nil where none is known. It may outlive the neighbour entry's.
	ReplyMAC net.HardwareAddr
	// Answers tells whether the last word of the entry is that the gateway is there, and is not ours.
	Answers bool
}

// All returns the known gateways in the order of their ids.
func (t *Table) All() []*View { return views(t.gateways, func(*gateway) bool { return true }) }

// Of returns those of an interface, in the order of their ids.
func (t *Table) Of(device int) []*View {
	return views(t.gateways, func(g *gateway) bool { return g.Interface == device })
}

func views(known map[gatewayKey]*gateway, which func(*gateway) bool) []*View {
	var views []*View
	for _, g := range known {
		if which(g) {
			views = append(views, &View{Gateway: g.Gateway, ID: g.id, ReplyMAC: g.mac, Answers: g.answers()})
		}
	}
	slices.SortFunc(views, func(a, b *View) int { return cmp.Compare(a.ID, b.ID) })
	return views
}

// ModeChanged has the gateways of an interface whose mode is another looked at as in a start.
func (t *Table) ModeChanged(device int) {
	for _, g := range t.gateways {
		if g.Interface == device {
			g.on(onOver)
			g.State, g.asked, g.wroteStale, g.wroteLast = "", time.Time{}, false, false
		}
	}
}

// CarrierBack has the gateways of an interface asked whose carrier is back: who is at the other end
// may be another, or not be there yet. One that was held for want of a carrier is not refused any more until it was asked.
func (t *Table) CarrierBack(device int) error {
	var errs []error
	for _, g := range t.gateways {
		if g.Interface != device {
			continue
		}
		if g.wroteLast = g.isHeld() && !g.isUnknown(); g.wroteLast {
			t.letGo(g)
		}
		switch {
		case g.isHeld() || !t.host.Interface(device).Enforces:
		case g.wroteLast && t.host.mayHold(g):
			errs = append(errs, unlessGone(t.bridge(g)))
		default:
			g.on(onCarrier)
			g.asked, g.resolveAt = time.Time{}, time.Now()
		}
	}
	return errors.Join(errs...)
}

// ProgramsLost has AttachHeld attach them again on an interface whose programs
// were all taken off.
func (t *Table) ProgramsLost(device int) {
	for _, g := range t.gateways {
		if g.Interface == device {
			g.heldBy = nil
		}
	}
}

// AttachHeld attaches the program that answers what the host starts by a gateway that is held, where one is since before
// its interface had programs, or since before there were others.
func (t *Table) AttachHeld() error {
	var errs []error
	for _, g := range t.gateways {
		if g.isHeld() {
			errs = append(errs, t.host.Tx.Postpone(func() error { return t.programs.attach(g) }))
		}
	}
	return errors.Join(errs...)
}

// Next returns when Due has something to do; zero for never.
func (t *Table) Next() time.Time {
	var next time.Time
	for _, g := range t.gateways {
		if !g.resolveAt.IsZero() && (next.IsZero() || g.resolveAt.Before(next)) {
			next = g.resolveAt
		}
	}
	return next
}

// CarrierLost holds the gateways of an interface whose carrier is gone: the kernel has dropped their entries. What waits for
// one that may not be held goes: replies are moved to the interfaces of their flows, everything else is lost, as without.
func (t *Table) CarrierLost(device int) error {
	var errs []error
	for _, g := range t.gateways {
		if g.Interface != device {
			continue
		}
		state, err := nexthop.StateNow(g.Gateway)
		switch {
		case err != nil || nexthop.Usable(state):
			errs = append(errs, err)
		case t.host.mayHold(g):
			t.hold(g)
			t.records.write()
			errs = append(errs, t.host.Save())
		case state == nexthop.StateIncomplete:
			errs = append(errs, unlessGone(t.waiting.release(g)))
		}
	}
	return errors.Join(errs...)
}

// Leave puts back the sysctls that are changed for as long as a gateway is silent, at the end: the kernel gives up in its own
// time then. Who finds the gateway held later changes them again.
func (t *Table) Leave() error { return t.host.Sysctls.Drop(isAsking) }
