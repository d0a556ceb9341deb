// SPDX-License-Identifier: Apache-2.0

// Package attachment owns what is attached to the interfaces that are managed or caught.
package attachment

import (
	"errors"
	"log/slog"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/time/rate"

	"replypath/loader/attach"
	"replypath/loader/datapath"
	"replypath/loader/pins"
	"replypath/loader/undo"
)

// Host is what Attachments work with.
type Host struct {
	Netlink  func() *netlink.Handle
	Datapath func() *datapath.Datapath // in force
	Attacher func() attach.Means
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

// Interface is what has to be known of one.
type Interface struct {
	attach.Interface
	ID        uint16 // of this life of it, as the programs know it
	HasHeader bool   // frames begin with an Ethernet header
	Catches   bool   // only replies that leave by it are looked at
}

// hooks are where it has programs.
func (i Interface) hooks() []attach.Direction { return attach.Hooks(i.Catches) }

// Attachments are those of the managed and caught interfaces.
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
	wait      time.Duration // after the last try to attach what could not be; 0: there was none
	again     time.Time     // when it is over
}

// New returns the attachments of a host where nothing is managed yet.
func New(host Host) *Attachments { return &Attachments{host, make(map[int]*attachment)} }

// Adopt begins with an interface that is managed from now on.
func (a *Attachments) Adopt(i Interface) {
	a.of[i.Index] = &attachment{repairs: a.host.Allowance()}
}

// Release detaches from an interface that is not managed any more. Of one that is gone only the pins are left.
func (a *Attachments) Release(target attach.Interface) error {
	delete(a.of, target.Index)
	return a.host.Attacher().Detach(target)
}

// IsAttached tells whether an interface has our programs, as far as is known.
func (a *Attachments) IsAttached(index int) bool {
	of := a.of[index]
	return of != nil && of.mechanism != attach.Auto
}

// each does something for each interface, and goes on after errors.
func each(interfaces []Interface, do func(Interface) error) error {
	var errs []error
	for _, i := range interfaces {
		errs = append(errs, do(i))
	}
	return errors.Join(errs...)
}

// isComplete tells whether all programs are attached now.
func (a *Attachments) isComplete(i Interface) (bool, error) {
	mechanism, err := attach.MechanismOf(a.host.Attacher(), i.Interface, i.hooks()...)
	return mechanism != attach.Auto, err
}

// HasAny tells whether one of the programs is attached now.
func (a *Attachments) HasAny(target attach.Interface) (bool, error) {
	for _, direction := range attach.Directions {
		mechanism, err := attach.MechanismOf(a.host.Attacher(), target, direction)
		if mechanism != attach.Auto || err != nil {
			return mechanism != attach.Auto, err
		}
	}
	return false, nil
}
