// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"errors"
	"fmt"
	"net"
	"slices"

	"replypath/loader/doctor/finding"
	"replypath/loader/hostsettings"
	"replypath/loader/pins"
)

// Fix examines, mends what can be mended by sysctls, and examines again: what it
// has mended is marked. It does nothing that detach could not take back exactly, and
// nothing to what somebody else made: rules, routes, firewalls, programs, MTUs and
// offloads are theirs. The configuration is for people, who are told what to set.
//
// Each change is in the journal of repairs before it is made, so that detach takes
// it back and status shows it. That journal is not the one of the process that
// owns the pins: Fix works beside it, and without.
func Fix(options Options) ([]Finding, error) {
	before, err := Examine(options)
	if err != nil {
		return nil, err
	}
	var wanted []finding.Sysctl
	for _, f := range before {
		if f.Automatic {
			wanted = append(wanted, f.Sysctl)
		}
	}
	if len(wanted) == 0 {
		return before, nil
	}
	mended := apply(options.PinDir, wanted)
	after, err := Examine(options)
	if err != nil {
		return nil, errors.Join(mended, err)
	}
	mark(before, after)
	return after, mended
}

// mark marks what is in order after, was to be mended before, and was not as it is now:
// an interface may have a finding for each family.
func mark(before, after []Finding) {
	for n := range after {
		f := &after[n]
		var mended, already bool
		for _, was := range before {
			if f.Check == was.Check && finding.OrEmpty(f.Interface) == finding.OrEmpty(was.Interface) {
				mended = mended || was.Automatic
				already = already || was.Severity == OK && was.Found == f.Found
			}
		}
		f.Fixed = mended && !already && f.Severity == OK
	}
}

// apply writes down and makes the changes, and goes on after errors.
func apply(pinDir string, wanted []finding.Sysctl) (err error) {
	journal, err := pins.OwnRepairs(pinDir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, journal.Close()) }()
	repairs, err := journal.Read()
	if err != nil {
		return err
	}
	if repairs.Namespace, err = pins.CurrentNamespace(); err != nil {
		return err
	}
	var errs []error
	for _, s := range wanted {
		errs = append(errs, mend(journal, repairs, s))
	}
	return errors.Join(errs...)
}

// mend makes one change. A journal that cannot be written to keeps it from being
// made, and one that cannot be made does not stay in it.
func mend(journal *pins.RepairsJournal, repairs *pins.Repairs, s finding.Sysctl) error {
	change, err := hostsettings.Plan(s.Key, s.Value)
	if change == nil || err != nil {
		return err
	}
	record, err := newRecord(change)
	if err != nil {
		return err
	}
	before := slices.Clone(repairs.Sysctls)
	note(repairs, record)
	err = journal.Write(repairs)
	if err == nil {
		err = change.Make()
	}
	if err != nil {
		repairs.Sysctls = before
		return errors.Join(err, journal.Write(repairs))
	}
	return nil
}

// note adds a change. Where it repeats an earlier one that somebody has taken
// back, what was found first stays what detach restores.
func note(repairs *pins.Repairs, record pins.RepairRecord) {
	isIt := func(r pins.RepairRecord) bool { return r.Key == record.Key && r.Interface == record.Interface }
	if n := slices.IndexFunc(repairs.Sysctls, isIt); n >= 0 {
		repairs.Sysctls[n].After = record.After
		return
	}
	repairs.Sysctls = append(repairs.Sysctls, record)
}

func newRecord(c *hostsettings.Change) (pins.RepairRecord, error) {
	record := pins.RepairRecord{SysctlRecord: pins.SysctlRecord{
		Interface: c.Interface, Key: c.Key, Before: c.Before, After: c.After,
	}}
	if c.Interface == 0 {
		return record, nil
	}
	i, err := net.InterfaceByIndex(c.Interface)
	if err != nil {
		return record, fmt.Errorf("set sysctl %s: %w", c.Key, err)
	}
	record.Name, record.MAC = i.Name, i.HardwareAddr.String()
	return record, nil
}
