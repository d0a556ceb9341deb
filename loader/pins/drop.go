package pins

import (
	"errors"
	"fmt"
	"strings"
)

// DropGone unpins what works for a network namespace that is gone: the datapath, whose
// names are those of Clear, and the repairs. All that they changed went with the
// namespace. It returns what it dropped.
func (d *Dir) DropGone(names ...string) (dropped []string, err error) {
	current, err := CurrentNamespace()
	if err != nil {
		return nil, err
	}
	// What cannot be read is for others to judge.
	journal, err := ReadJournal(d.path)
	isGone := err == nil && journal.Namespace.isGone(d.path, current)
	repairs, err := readRepairs(d.path)
	// The links of the datapath may be what has told it, of both.
	if err == nil && repairs != nil &&
		(isGone && repairs.Namespace.Is(journal.Namespace) || repairs.Namespace.isGone(d.path, current)) {
		if err := d.dropRepairs(); err != nil {
			return nil, err
		}
		dropped = append(dropped, fmt.Sprintf("repairs of replypath doctor --fix in %s, of a network namespace that is gone: %s",
			shown(d.path), repairs.keys()))
	}
	if !isGone {
		return dropped, nil
	}
	if err := d.Clear(names...); err != nil {
		return dropped, err
	}
	return append(dropped, fmt.Sprintf("pins in %s, of a network namespace that is gone", shown(d.path))), nil
}

func (d *Dir) dropRepairs() error {
	handle, err := lockRepairs(d.Path(repairsDir))
	if errors.Is(err, errRemoved) {
		return nil
	}
	if err != nil {
		return err
	}
	return errors.Join(removeTree(d.Path(repairsDir)), handle.Close())
}

// keys names the sysctls.
func (r *Repairs) keys() string {
	var keys []string
	for i := range r.Sysctls {
		keys = append(keys, r.Sysctls[i].Key)
	}
	return strings.Join(keys, ", ")
}

// HasJournal tells whether a datapath is pinned in the directory, or was begun to be.
func (d *Dir) HasJournal() bool { return d.Has(journalName) }
