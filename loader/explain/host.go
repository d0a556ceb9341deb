// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"errors"
	"path/filepath"
	"slices"

	"replypath/bpf"
	"replypath/loader/attach"
	"replypath/loader/datapath"
	"replypath/loader/discover/dump"
	"replypath/loader/flows"
	"replypath/loader/pins"
	"replypath/loader/rehearsal"
)

// Host is what the programs and the kernel know.
type Host struct {
	dir      string
	table    *flows.Table
	programs *rehearsal.Rehearsal
	kernel   kernel
	// By index: those at which programs of ours record requests, lo where there are none, and those at which they see what leaves.
	recording, seen []int
}

// OpenHost opens what is pinned in the directory. The error matches pins.ErrNone
// where nothing is.
func OpenHost(pinDir string) (*Host, error) {
	h := &Host{dir: pinDir}
	if err := h.open(); err != nil {
		return nil, errors.Join(err, h.Close())
	}
	return h, nil
}

func (h *Host) open() (err error) {
	if h.table, err = flows.Open(h.dir); err != nil {
		return err
	}
	if h.kernel.Handle, err = dump.Open(); err != nil {
		return err
	}
	journal, err := pins.ReadJournal(h.dir)
	if err != nil {
		return err
	}
	h.programs = rehearsal.New(h.dir, h.table.Maps(), bpf.Seeds(journal.Seeds))
	return h.Refresh()
}

// loopback is the index of lo, by which the programs record nothing.
const loopback = 1

// Refresh reads again what may have changed since the host was opened.
func (h *Host) Refresh() error {
	journal, err := pins.ReadJournal(h.dir)
	if err != nil {
		return err
	}
	h.recording, h.seen = nil, nil
	attacher := attach.New(filepath.Join(h.dir, datapath.LinksDir), h.kernel.Handle, attach.Auto)
	for _, r := range journal.Interfaces {
		link, err := h.kernel.LinkByIndex(r.Index)
		if r.Index == 0 || err != nil { // nobody may have seen it go
			continue
		}
		for place, list := range map[attach.Direction]*[]int{attach.Ingress: &h.recording, attach.Egress: &h.seen} {
			_, attached, err := attacher.Attached(attach.Interface{Index: r.Index, Name: link.Attrs().Name}, place)
			switch {
			case err != nil:
				return err
			case attached:
				*list = append(*list, r.Index)
			}
		}
	}
	if journal.Fallback != nil {
		h.seen = append(h.seen, journal.Fallback.Index)
	}
	if h.recording == nil {
		h.recording = []int{loopback}
	}
	return nil
}

// sees tells whether a program of ours sees what the kernel sends by a way.
func (h *Host) sees(way *kernelWay) bool { return slices.Contains(h.seen, way.device) }

// Close closes what is open; what is pinned stays.
func (h *Host) Close() error {
	if h.kernel.Handle != nil {
		h.kernel.Close()
	}
	var errs []error
	if h.programs != nil {
		errs = append(errs, h.programs.Close())
	}
	if h.table != nil {
		errs = append(errs, h.table.Close())
	}
	return errors.Join(errs...)
}

// lookup returns the entries that a question is about, idle ones included.
func (h *Host) lookup(q *Question) ([]flows.Entry, error) {
	tuples := q.exact()
	if tuples == nil {
		return h.table.Entries(q.matches)
	}
	var found []flows.Entry
	for _, t := range tuples {
		entries, err := h.table.Lookup(t, h.programs.Seeds)
		if err != nil {
			return nil, err
		}
		found = append(found, entries...)
	}
	return found, nil
}
