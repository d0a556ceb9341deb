// SPDX-License-Identifier: Apache-2.0

package status

import (
	"slices"

	"github.com/vishvananda/netlink"

	"replypath/bpf"
	"replypath/loader/config"
	"replypath/loader/datapath"
	"replypath/loader/pins"
)

// Effect is what a datapath does by itself, as its hooks and modes say, and what stands changed on
// the host for it. None of it needs a process.
type Effect struct {
	Mode        string   // the one in force where an interface has none of its own
	Corrected   []string // the attached interfaces to which replies are moved, by index
	Observed    []string // the other attached ones: what would be moved there is counted
	Mechanisms  []string // by which they are attached, each once
	HostChanges []HostChange
	// Detaching tells that `replypath detach --stop` has begun to take it away.
	Detaching bool
}

// ReadEffect looks at what is attached now, for whoever has the journal and the maps open. Whether somebody detaches it is
// not looked at.
func ReadEffect(
	pinDir string, journal *pins.Journal, maps *bpf.DatapathMaps, handle *netlink.Handle,
) (*Effect, error) {
	repairs, err := pins.ReadRepairs(pinDir)
	if err != nil {
		return nil, err
	}
	r := &reader{pinDir: pinDir, journal: journal, repairs: repairs, maps: maps, netlink: handle}
	var s Status
	for _, part := range []func(*Status) error{r.mode, r.changes, r.attachments} {
		if err := part(&s); err != nil {
			return nil, err
		}
	}
	e := &Effect{Mode: s.Mode, HostChanges: s.HostChanges}
	for i := range s.Interfaces {
		e.add(&s.Interfaces[i], datapath.ModeInForce(r.byHand, s.Interfaces[i].Mode))
	}
	return e, nil
}

// add sorts an interface by its mode in force.
func (e *Effect) add(i *Interface, mode string) {
	if !i.Attached {
		return
	}
	if mode == string(config.ModeEnforce) {
		e.Corrected = append(e.Corrected, i.Name)
	} else {
		e.Observed = append(e.Observed, i.Name)
	}
	if !slices.Contains(e.Mechanisms, *i.Mechanism) {
		e.Mechanisms = append(e.Mechanisms, *i.Mechanism)
	}
}
