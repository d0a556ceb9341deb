package loader

import (
	"errors"
	"fmt"
	"slices"

	"replypath/loader/attach"
	"replypath/loader/datapath"
	"replypath/loader/hostsettings"
	"replypath/loader/pins"
	"replypath/loader/source"
)

// restorer puts an earlier datapath back in the place of the one that the journal
// is of. What both changed on the host stays.
type restorer struct {
	*detacher
	before  *pins.Journal
	earlier *datapath.Attached // its programs
}

// run goes on after errors.
func (r *restorer) run() error {
	var errs []error
	for _, record := range r.before.Interfaces {
		errs = append(errs, r.attach(record))
	}
	for _, record := range r.journal.Interfaces {
		errs = append(errs, r.detach(record))
	}
	return errors.Join(append(errs, r.fallback(), r.leftovers(), r.source(), r.qdiscs(), r.sysctls())...)
}

// attach puts the earlier programs on an interface, in the place of others where
// there are any. One that they could not be attached to is left without.
func (r *restorer) attach(record pins.InterfaceRecord) error {
	if !record.Attached || !r.isThere(record) {
		return nil
	}
	programs, known := r.earlier.Programs(record.MAC != "")
	if !known {
		return fmt.Errorf("interface %s: the programs that were attached before are not pinned", record.Name)
	}
	target := attach.Interface{Index: record.Index, Name: record.Name}
	_, err := r.attacher.Attach(target, programs)
	// Who goes on attaches it again where a gateway is held.
	return errors.Join(err, r.attacher.DetachFrom(target, attach.Last))
}

// isThere tells whether the interface of a record is still the one that was served.
func (r *restorer) isThere(record pins.InterfaceRecord) bool {
	if record.Index == 0 {
		return false
	}
	link, err := r.netlink.LinkByIndex(record.Index)
	return err == nil && (link.Attrs().Name == record.Name || link.Attrs().HardwareAddr.String() == record.MAC)
}

// detach takes programs off an interface that the earlier datapath did not serve.
func (r *restorer) detach(record pins.InterfaceRecord) error {
	same := func(b pins.InterfaceRecord) bool { return b.Index == record.Index && b.Attached }
	if record.Index == 0 || slices.ContainsFunc(r.before.Interfaces, same) {
		return nil
	}
	return r.program(attach.Interface{Index: record.Index, Name: record.Name})
}

// source puts back, or takes off, the programs that repair source addresses.
func (r *restorer) source() error {
	programs, known := r.earlier.Source()
	if r.before.SourceCgroup == "" || !known {
		return r.sourceRepair()
	}
	_, err := source.Attach(r.dir.Path(datapath.LinksDir), r.before.SourceCgroup, programs)
	return err
}

// qdiscs removes those that the earlier datapath did not add.
func (r *restorer) qdiscs() error {
	var errs []error
	for _, q := range r.journal.Qdiscs {
		if !slices.Contains(r.before.Qdiscs, q) {
			errs = append(errs, r.qdisc(attach.Interface{Index: q.Interface, Name: q.Name}))
		}
	}
	return errors.Join(errs...)
}

// sysctls restores those that the earlier datapath did not change, and changes
// again those of its changes that are no more.
func (r *restorer) sysctls() error {
	var errs []error
	restore := func(c hostsettings.Change) {
		_, err := hostsettings.Restore(c)
		errs = append(errs, err)
	}
	for _, s := range r.journal.Sysctls {
		if !slices.Contains(r.before.Sysctls, s) {
			restore(changeOf(s))
		}
	}
	for _, s := range r.before.Sysctls {
		if !slices.Contains(r.journal.Sysctls, s) {
			change := changeOf(s)
			change.Before, change.After = change.After, change.Before
			restore(change)
		}
	}
	return errors.Join(errs...)
}
