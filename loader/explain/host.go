// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"errors"
	"fmt"
	"slices"

	"github.com/vishvananda/netlink"

	"replypath/bpf"
	"replypath/loader/datapath"
	"replypath/loader/discover"
	"replypath/loader/discover/dump"
	"replypath/loader/flows"
	"replypath/loader/pins"
)

// Host is what the programs and the kernel know.
type Host struct {
	dir      string
	table    *flows.Table
	maps     programMaps
	kernel   kernel
	seeds    bpf.Seeds
	clock    datapath.Clock
	settings bpf.DatapathSettings
	byHand   bpf.DatapathMode
	fallback int // index of the device of the fallback route; 0 without one
	// showsLinks: the programs ask the kernel for the state of a link, and not the daemon.
	showsLinks bool
}

// OpenHost opens what is pinned in the directory. The error matches pins.ErrNone
// where nothing is.
func OpenHost(pinDir string) (*Host, error) {
	h := &Host{dir: pinDir}
	if err := h.open(pinDir); err != nil {
		return nil, errors.Join(err, h.Close())
	}
	return h, nil
}

func (h *Host) open(pinDir string) error {
	journal, err := pins.ReadJournal(pinDir)
	if err != nil {
		return err
	}
	copy(h.seeds[:], journal.Seeds)
	h.showsLinks = slices.ContainsFunc(journal.Features, func(f pins.FeatureRecord) bool {
		return f.Name == pins.FeatureProbeRead && f.Available
	})
	if journal.Fallback != nil {
		h.fallback = journal.Fallback.Index
	}
	if h.table, err = flows.Open(pinDir); err != nil {
		return err
	}
	h.maps = programMaps{h.table.Maps()}
	if h.kernel.Handle, err = dump.Open(); err != nil {
		return err
	}
	return h.Refresh()
}

// Refresh reads again what the operator may have changed since the host was
// opened, and the time.
func (h *Host) Refresh() (err error) {
	if h.clock, err = datapath.ReadClock(h.dir); err != nil {
		return err
	}
	if err := h.maps.Configuration.Lookup(uint32(0), &h.settings); err != nil {
		return fmt.Errorf("read the settings: %w", err)
	}
	h.byHand, err = datapath.ReadMode(h.maps.DatapathMaps)
	return err
}

// Close closes what is open; what is pinned stays.
func (h *Host) Close() error {
	if h.kernel.Handle != nil {
		h.kernel.Close()
	}
	if h.table == nil {
		return nil
	}
	return h.table.Close()
}

// lookup returns the entries that a question is about, idle ones included.
func (h *Host) lookup(q *Question) ([]flows.Entry, error) {
	tuples := q.exact()
	if tuples == nil {
		return h.table.Entries(q.matches)
	}
	var found []flows.Entry
	for _, t := range tuples {
		entries, err := h.table.Lookup(t, h.seeds)
		if err != nil {
			return nil, err
		}
		found = append(found, entries...)
	}
	return found, nil
}

// targetOf returns what the programs know of a flow's interface, nil where its
// device is gone: as is_usable() in bpf/src/next_hop.h.
func (h *Host) targetOf(f *bpf.DatapathFlow) (*bpf.DatapathInterface, error) {
	target, err := h.maps.interfaceByID(uint32(f.Interface), f.Ifindex)
	if target == nil || err != nil {
		return target, err
	}
	var ifindex uint32
	err = h.maps.Devices.Lookup(uint32(f.Interface), &ifindex)
	if isMissing(err) || err == nil && ifindex != f.Ifindex {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read device %d: %w", f.Ifindex, err)
	}
	if !h.showsLinks {
		return target, nil
	}
	link, err := h.kernel.LinkByIndex(int(f.Ifindex))
	if notFound := (netlink.LinkNotFoundError{}); errors.As(err, &notFound) {
		return nil, nil // it has just gone
	}
	if err != nil {
		return nil, fmt.Errorf("look at device %d: %w", f.Ifindex, err)
	}
	refreshLink(target, link)
	return target, nil
}

// refreshLink brings up to date whether an interface is up, as can_send() sees it: the daemon may not run.
func refreshLink(i *bpf.DatapathInterface, link netlink.Link) {
	const up = uint8(bpf.DatapathInterfaceFlagsINTERFACE_UP)
	i.Flags &^= up
	state := link.Attrs().OperState
	if discover.IsUp(link) && (state == netlink.OperUnknown || state > netlink.OperLowerLayerDown) {
		i.Flags |= up
	}
}
