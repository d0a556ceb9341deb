// SPDX-License-Identifier: Apache-2.0

package status

import (
	"replypath/bpf"
	"replypath/loader/counters"
	"replypath/loader/discover/dump"
	"replypath/loader/identity"
	"replypath/loader/pins"
)

// Traffic is what a datapath has counted up to a moment, and for which
// interfaces.
type Traffic struct {
	Mode       string
	Daemon     Daemon
	Interfaces []Interface // those that are managed, by index; their gateways are left out
	counters.ByName
}

// ReadTraffic is Read for what may be asked every second: it looks at
// neither flows nor routes. The maps are those that are pinned in the directory.
func ReadTraffic(pinDir string, maps *bpf.DatapathMaps) (*Traffic, error) {
	journal, err := pins.ReadJournal(pinDir)
	if err != nil {
		return nil, err
	}
	handle, err := dump.Open()
	if err != nil {
		return nil, err
	}
	defer handle.Close()
	r := &reader{pinDir: pinDir, journal: journal, maps: maps, netlink: handle}
	return r.traffic()
}

func (r *reader) traffic() (*Traffic, error) {
	var s Status
	for _, part := range []func(*Status) error{r.mode, r.daemon, r.attachments} {
		if err := part(&s); err != nil {
			return nil, err
		}
	}
	counted, err := counters.ReadByName(r.maps, r.names(s.Interfaces))
	return &Traffic{Mode: s.Mode, Daemon: s.Daemon, Interfaces: s.Interfaces, ByName: counted}, err
}

// attachments describes the managed interfaces as far as that is quickly done.
func (r *reader) attachments(s *Status) error {
	for _, record := range r.journal.Interfaces {
		if record.Index == 0 || record.Catches {
			continue
		}
		i, err := r.describe(&record)
		if err != nil {
			return err
		}
		s.Interfaces = append(s.Interfaces, i)
	}
	sortInterfaces(s.Interfaces)
	return nil
}

// names are those of all interfaces that ever were; who was renamed has the name
// that is shown.
func (r *reader) names(present []Interface) map[uint16]string {
	names := identity.Names(r.journal.Interfaces)
	for _, record := range r.journal.Interfaces {
		for _, i := range present {
			if record.Index == i.Index {
				names[record.ID] = i.Name
			}
		}
	}
	return names
}
