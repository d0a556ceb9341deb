package loader

import (
	"errors"
	"fmt"
	"net"

	"replypath/loader/hostsettings"
	"replypath/loader/pins"
)

// repairs takes back what `replypath doctor --fix` changed, and forgets it.
func (d *detacher) repairs() error {
	journal, err := pins.OwnExistingRepairs(d.dir.Path())
	if journal == nil || err != nil {
		return err
	}
	err = d.takeBack(journal)
	return errors.Join(err, journal.Close())
}

func (d *detacher) takeBack(journal *pins.RepairsJournal) error {
	repairs, err := journal.Read()
	if err != nil {
		return err
	}
	var errs []error
	for _, r := range repairs.Sysctls {
		same, err := isSameInterface(&r)
		if err != nil || !same {
			errs = append(errs, err)
			continue
		}
		restored, err := hostsettings.Restore(changeOf(r.SysctlRecord))
		errs = append(errs, err)
		if restored {
			d.done("repair of sysctl %s, which is %s again", r.Key, r.Before)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return err // the journal is still needed for the next try
	}
	return journal.Remove()
}

// isSameInterface tells whether the index in a record is still that of the
// interface that was meant: under its name, or with its MAC under another.
func isSameInterface(r *pins.RepairRecord) (bool, error) {
	if r.Interface == 0 {
		return true, nil
	}
	interfaces, err := net.Interfaces()
	if err != nil {
		return false, fmt.Errorf("restore sysctl %s: %w", r.Key, err)
	}
	for _, i := range interfaces {
		if i.Index == r.Interface {
			return i.Name == r.Name || r.MAC != "" && i.HardwareAddr.String() == r.MAC, nil
		}
	}
	return false, nil
}
