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
	for i := range repairs.Sysctls {
		change, err := presentRepair(&repairs.Sysctls[i])
		if change == nil || err != nil {
			errs = append(errs, err)
			continue
		}
		restored, err := hostsettings.Restore(*change)
		errs = append(errs, err)
		if restored {
			d.done("repair of sysctl %s, which is %s again", change.Key, change.Before)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return err // the journal is still needed for the next try
	}
	return journal.Remove()
}

// presentRepair returns what was changed by the name that the sysctl has now, nil where it
// went with its interface.
func presentRepair(r *pins.RepairRecord) (*hostsettings.Change, error) {
	change := changeOf(r.SysctlRecord)
	if r.Interface == 0 {
		return &change, nil
	}
	name, err := nameOfRepaired(r)
	if name == "" || err != nil {
		return nil, err
	}
	change = change.On(name)
	return &change, nil
}

// nameOfRepaired returns the present name of the interface of a record, "" where the index
// is no longer its own: it is where the interface has its name, or its MAC under another.
func nameOfRepaired(r *pins.RepairRecord) (string, error) {
	interfaces, err := net.Interfaces()
	if err != nil {
		return "", fmt.Errorf("look for the interface of sysctl %s: %w", r.Key, err)
	}
	for _, i := range interfaces {
		if i.Index == r.Interface && (i.Name == r.Name || r.MAC != "" && i.HardwareAddr.String() == r.MAC) {
			return i.Name, nil
		}
	}
	return "", nil
}
