package detach

import (
	"errors"

	"replypath/loader/hostsettings"
	"replypath/loader/identity"
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
		change, err := identity.Repaired(&repairs.Sysctls[i])
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
