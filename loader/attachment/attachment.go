// Package attachment owns what is attached to the interfaces that are managed: the programs, and since when they see all
// that comes in.
package attachment

import (
	"log/slog"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/time/rate"

	"replypath/loader/attach"
	"replypath/loader/datapath"
	"replypath/loader/hostmaps"
	"replypath/loader/identity"
	"replypath/loader/pins"
	"replypath/loader/undo"
)

// Host is what Attachments work with.
type Host struct {
	Netlink  func() *netlink.Handle
	Datapath func() *datapath.Datapath // in force
	Maps     func() *hostmaps.Maps     // its
	Attacher func() Attacher
	// AttacherBy returns one that attaches by a mechanism of its own.
	AttacherBy func(attach.Mechanism) *attach.Attacher
	// Mechanism returns the one that Attacher is going to choose.
	Mechanism func() attach.Mechanism
	Log       *slog.Logger
	Tx        *undo.Tx
	Qdiscs    *undo.Qdiscs
	Journal   *pins.Journal // how each interface is attached is written
	// Fresh tells whether nothing was attached before this start, which goes on.
	Fresh func() bool
	// Attached is told of an interface that had none of our programs, Repaired of programs that somebody had taken off.
	Attached func(index int)
	Repaired func()
	// Allowance bounds how often what others take off is put back at once.
	Allowance func() *rate.Limiter
}

// Attacher is what is asked of an attach.Attacher. In tests it may refuse.
type Attacher interface {
	Attach(attach.Interface, attach.Programs) (attach.Result, error)
	Attached(attach.Interface, attach.Direction) (attach.Mechanism, bool, error)
	Detach(attach.Interface) error
	DetachFrom(attach.Interface, attach.Direction) error
	Pinned() ([]int, error)
	LacksQdisc(attach.Interface) (bool, error)
	RemoveQdisc(attach.Interface) error
}

// Interface is what has to be known of one.
type Interface struct {
	attach.Interface
	ID        uint16 // index into the map `interfaces`
	HasHeader bool   // frames begin with an Ethernet header
}

// Attachments are those of the managed interfaces.
type Attachments struct {
	host Host
	of   map[int]*attachment // by index
}

// attachment is that of one interface.
type attachment struct {
	// mechanism is how the programs are attached; empty while they are not.
	mechanism attach.Mechanism
	lost      bool // they were, and somebody took them off
	repairs   *rate.Limiter
	watched   watched
}

// New returns the attachments of a host where nothing is managed yet.
func New(host Host) *Attachments { return &Attachments{host, make(map[int]*attachment)} }

// Adopt begins with an interface that is managed from now on.
func (a *Attachments) Adopt(i Interface) {
	before, _ := a.host.Maps().Interfaces.Get(uint32(i.ID))
	a.of[i.Index] = &attachment{repairs: a.host.Allowance(), watched: watchedSince(before.Since)}
}

// Release detaches from an interface that is not managed any more, and removes the qdisc that was added for it. Of one that
// is gone only the pins are left.
func (a *Attachments) Release(target attach.Interface, gone bool) error {
	delete(a.of, target.Index)
	if err := a.host.Attacher().Detach(target); err != nil {
		return err
	}
	return a.host.Qdiscs.Drop(target, gone)
}

// IsAttached tells whether an interface has our programs, as far as is known.
func (a *Attachments) IsAttached(index int) bool {
	of := a.of[index]
	return of != nil && of.mechanism != attach.Auto
}

// Attach attaches to those interfaces that have no programs of this process yet, or in the place of an earlier one's.
func (a *Attachments) Attach(interfaces ...Interface) error {
	return each(interfaces, func(i Interface) error {
		if a.IsAttached(i.Index) {
			return nil
		}
		return a.attach(i)
	})
}

func (a *Attachments) attach(i Interface) error {
	if a.host.Mechanism() == attach.Clsact {
		if err := a.host.Qdiscs.Expect(i.Interface); err != nil {
			return err
		}
	}
	replaces, err := a.planReplacement(i)
	if err != nil {
		return err
	}
	result, err := a.putWatched(i)
	if err != nil {
		return a.explain(i, err)
	}
	if result.New && !replaces {
		a.host.Tx.OnAbort(func() error { return a.host.Attacher().Detach(i.Interface) })
	}
	// The qdisc of an earlier process that attached by clsact stays until detach:
	// to remove one from a device that is up loses packets (qdisc_graft() in
	// net/sched/sch_api.c deactivates the whole device).
	of := a.of[i.Index]
	of.mechanism = result.Mechanism
	if result.New {
		a.host.Attached(i.Index)
	}
	if r := identity.Record(a.host.Journal.Interfaces, i.Index); r != nil {
		r.Attached, r.Mechanism = true, string(result.Mechanism)
	}
	switch {
	case of.lost:
		of.lost = false
		a.host.Repaired()
		a.host.Log.Warn("programs had been taken off, attached again", "interface", i.Name, "mechanism", result.Mechanism)
	case result.New:
		a.host.Log.Info("attached", "interface", i.Name, "index", i.Index, "mechanism", result.Mechanism)
	}
	return nil
}

// Lost looks for programs that somebody has taken off, and tries again to put back those that could not be. It tells
// whether that is worth a reconciliation. What cannot be looked at is left to the slow timer, which tells why.
func (a *Attachments) Lost(now time.Time, interfaces []Interface) (due bool) {
	for _, i := range interfaces {
		switch of := a.of[i.Index]; {
		case of.lost:
			due = a.attach(i) == nil || due
		case of.mechanism != attach.Auto:
			complete, err := a.IsComplete(i.Interface)
			due = err == nil && !complete && of.repairs.AllowN(now, 1) || due
		}
	}
	return due
}

// Verify looks whether the programs are still where they were put; Attach puts them back where they are not.
func (a *Attachments) Verify(interfaces []Interface) error {
	return each(interfaces, func(i Interface) error {
		if !a.IsAttached(i.Index) {
			return nil
		}
		complete, err := a.IsComplete(i.Interface)
		if err == nil && !complete {
			a.of[i.Index].mechanism, a.of[i.Index].lost = attach.Auto, true
		}
		return err
	})
}
