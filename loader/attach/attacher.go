// SPDX-License-Identifier: Apache-2.0

package attach

import (
	"errors"
	"fmt"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
)

// Mechanism is how programs are attached.
type Mechanism string

// Mechanisms.
const (
	Auto   Mechanism = ""       // TCX, else clsact
	TCX    Mechanism = "tcx"    // BPF links, from 6.6
	Clsact Mechanism = "clsact" // filters of a qdisc
)

// Direction is one of the two hooks of an interface.
type Direction string

// Directions.
const (
	Ingress Direction = "ingress"
	Egress  Direction = "egress"
	// Last is the egress hook once more: a program that sees what the one of
	// Egress has let pass.
	Last Direction = "last"
)

// Directions lists both hooks. Ingress comes first, so that a flow is known
// before its first reply can be looked at.
var Directions = [...]Direction{Ingress, Egress}

// Places are all that programs of ours may stand in, in the order in which they
// are attached: the one of Last gets behind that of Egress.
var Places = [...]Direction{Ingress, Egress, Last}

// Hooks are those where an interface has programs: egress alone where it only catches replies.
func Hooks(catches bool) []Direction {
	if catches {
		return []Direction{Egress}
	}
	return Directions[:]
}

// Programs are what is attached; where one is nil, nothing changes.
type Programs struct{ Ingress, Egress, Last *ebpf.Program }

func (p Programs) of(direction Direction) *ebpf.Program {
	switch direction {
	case Ingress:
		return p.Ingress
	case Egress:
		return p.Egress
	}
	return p.Last
}

// each returns the places that there are programs for.
func (p Programs) each() []Direction {
	return slices.DeleteFunc(slices.Clone(Places[:]), func(d Direction) bool { return p.of(d) == nil })
}

// Interface says where to attach.
type Interface struct {
	Index int
	Name  string
}

// Result tells what Attach did.
type Result struct {
	Mechanism Mechanism
	New       bool // nothing of ours was attached to one of the places before
}

// Means is what is asked of an Attacher. In tests it may refuse.
type Means interface {
	Attach(Interface, Programs) (Result, error)
	Attached(Interface, Direction) (Mechanism, bool, error)
	Detach(Interface) error
	DetachFrom(Interface, Direction) error
	Pinned() ([]int, error)
	LacksQdisc(Interface) (bool, error)
	RemoveQdisc(Interface) error
}

// Attacher attaches to the interfaces of one network namespace. Links are
// pinned as DIR/<ifindex>-<direction>.
type Attacher struct {
	dir   string
	nl    *netlink.Handle
	force Mechanism
}

// New returns an Attacher that pins its links in dir, which exists. force is
// Auto unless one is wanted.
func New(dir string, nl *netlink.Handle, force Mechanism) *Attacher {
	return &Attacher{dir: dir, nl: nl, force: force}
}

// attachEach attaches each program to its place; fresh: one was not attached before. On error what it newly attached is
// taken off again.
func attachEach(iface Interface, programs Programs, attach func(Interface, Direction, *ebpf.Program) (fresh bool, err error),
	remove func(Interface, Direction) error) (fresh bool, err error) {
	var added []Direction
	for _, direction := range programs.each() {
		isNew, err := attach(iface, direction, programs.of(direction))
		if err != nil {
			for _, direction := range added {
				err = errors.Join(err, remove(iface, direction))
			}
			return false, err
		}
		if isNew {
			added = append(added, direction)
		}
	}
	return len(added) > 0, nil
}

// removeEach takes our program off each place.
func removeEach(iface Interface, remove func(Interface, Direction) error) error {
	var errs []error
	for _, direction := range Places {
		errs = append(errs, remove(iface, direction))
	}
	return errors.Join(errs...)
}

func wrap(err error, iface Interface, direction Direction, format string, args ...any) error {
	return fmt.Errorf("%s on %s %s: %w", fmt.Sprintf(format, args...), iface.Name, direction, err)
}

// ErrUnsupported says that the kernel lacks what it takes. The message names the
// remedy.
var ErrUnsupported = errors.New("not supported here")
