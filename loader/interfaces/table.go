// SPDX-License-Identifier: Apache-2.0

// Package interfaces owns which interfaces are managed or caught, which of them each is, whatever its name or index is now,
// and the mode that is in force there.
package interfaces

import (
	"cmp"
	"fmt"
	"log/slog"
	"maps"
	"slices"

	"github.com/vishvananda/netlink"

	"replypath/bpf"
	"replypath/loader/attach"
	"replypath/loader/attachment"
	"replypath/loader/config"
	"replypath/loader/datapath"
	"replypath/loader/discover"
	"replypath/loader/identity"
	"replypath/loader/pins"
	"replypath/loader/undo"
)

// Host is what a Table works with.
type Host struct {
	Netlink     func() *netlink.Handle
	Datapath    func() *datapath.Datapath // in force
	Attachments *attachment.Attachments
	Sysctls     *undo.Sysctls
	Qdiscs      *undo.Qdiscs
	Tx          *undo.Tx
	Journal     *pins.Journal // Interfaces is written
	Log         *slog.Logger
	Identities  func() *identity.Resolver
	// ModeChanged is told of an interface whose mode in force has become another.
	ModeChanged func(index int)
	// Forget has what was counted for an id that is given to another interface added up elsewhere.
	Forget func(id uint16) error
}

// Managed is an interface that is managed, or caught, now. Only its Table changes it. One that is caught has no mode.
type Managed struct {
	discover.Interface
	ID   uint16
	Mode config.Mode // in force

	entered     bool // in the map `devices`
	lostCarrier bool // since its gateways were asked last
}

// Target is the interface as a place for programs.
func (m *Managed) Target() attach.Interface { return attach.Interface{Index: m.Index, Name: m.Name} }

// HasHeader tells whether frames begin with an Ethernet header.
func (m *Managed) HasHeader() bool { return m.MAC != nil }

// Enforces tells whether the mode in force is enforce; false for nil. Whoever changes something of the host asks this first:
// for an interface that only observes nothing is changed but programs and pins.
func (m *Managed) Enforces() bool { return m != nil && m.Mode == config.ModeEnforce }

func (m *Managed) place() attachment.Interface {
	return attachment.Interface{Interface: m.Target(), ID: m.ID, HasHeader: m.HasHeader(), Catches: m.Catches}
}

// Table holds the managed and the caught interfaces.
type Table struct {
	host    Host
	served  map[int]*Managed // by index
	removed map[int]bool     // interfaces that events said have gone, by index
	suspect bool             // interfaces may be others than they were
}

// New returns the table of a host where nothing is managed yet. An earlier process may have recorded interfaces.
func New(host Host) *Table {
	return &Table{host: host, served: make(map[int]*Managed), removed: make(map[int]bool), suspect: true}
}

// Get returns the interface of an index, nil for one that is not managed.
func (t *Table) Get(index int) *Managed {
	if m := t.served[index]; m != nil && !m.Catches {
		return m
	}
	return nil
}

// All returns the managed interfaces in the order of their index.
func (t *Table) All() []*Managed {
	return slices.DeleteFunc(t.Served(), func(m *Managed) bool { return m.Catches })
}

// Served returns the managed and the caught interfaces in the order of their index.
func (t *Table) Served() []*Managed {
	return slices.SortedFunc(maps.Values(t.served), func(a, b *Managed) int { return cmp.Compare(a.Index, b.Index) })
}

// Tended are those for which settings of the host may be changed.
func (t *Table) Tended() []*Managed {
	return slices.DeleteFunc(t.All(), func(m *Managed) bool { return m.IsUntended() })
}

// Enforced are the interfaces whose replies are moved.
func (t *Table) Enforced() []*Managed {
	return slices.DeleteFunc(t.All(), func(m *Managed) bool { return !m.Enforces() })
}

// Targets are all of them as places for programs, those without an Ethernet header first: the verifier takes its time for
// their programs, while no others have been replaced yet.
func (t *Table) Targets() []attachment.Interface {
	var places []attachment.Interface
	for _, m := range t.Served() {
		places = append(places, m.place())
	}
	slices.SortStableFunc(places, func(a, b attachment.Interface) int {
		switch {
		case a.HasHeader == b.HasHeader:
			return 0
		case b.HasHeader:
			return -1
		}
		return 1
	})
	return places
}

// NameOf is what an interface is called in messages, be it managed or not.
func (t *Table) NameOf(index int) string {
	if m := t.served[index]; m != nil {
		return m.Name
	}
	return fmt.Sprintf("interface %d", index)
}

// WithoutClashes takes out interfaces that have the place of another in the map `interfaces`. Who is managed already goes first, who is caught last.
func (t *Table) WithoutClashes(found *discover.Result) (managed []discover.Interface) {
	owner := make(map[uint32]discover.Interface)
	for _, i := range slices.Concat(found.Interfaces, found.Caught) {
		place := bpf.PlaceOf(i.Index)
		if _, taken := owner[place]; !taken || t.Get(i.Index) != nil && !i.Catches {
			owner[place] = i
		}
	}
	found.Caught = slices.DeleteFunc(found.Caught, func(i discover.Interface) bool { return owner[bpf.PlaceOf(i.Index)].Index != i.Index })
	return slices.DeleteFunc(slices.Clone(found.Interfaces), func(i discover.Interface) bool {
		first := owner[bpf.PlaceOf(i.Index)]
		if first.Index == i.Index {
			return false
		}
		found.Unmanaged = append(found.Unmanaged, discover.Unmanaged{Name: i.Name, Reason: fmt.Sprintf(
			"its index %d and that of %s, %d, are the same modulo %d", i.Index, first.Name, first.Index, bpf.InterfacePlaces)})
		return true
	})
}
