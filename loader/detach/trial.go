// SPDX-License-Identifier: Apache-2.0

package detach

import (
	"errors"
	"log/slog"
	"slices"

	"replypath/loader/datapath"
	"replypath/loader/identity"
	"replypath/loader/pins"
)

// TakeBack ends a trial whose process is gone, or has it done, and puts back what was there before. It tells whether it did:
// not where the trial was confirmed or taken back already, and not while another process owns the directory.
func TakeBack(pinDir string, log *slog.Logger) (done bool, err error) {
	if journal, err := readTrial(pinDir); journal == nil || err != nil {
		return false, err
	}
	dir, err := pins.OwnExisting(pinDir)
	if errors.Is(err, pins.ErrNone) || errors.Is(err, pins.ErrOwned) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	journal, err := readTrial(pinDir) // as it is now
	if err == nil && journal != nil {
		err = takeBack(dir, journal, log)
	}
	switch {
	case journal == nil || err != nil:
		return false, errors.Join(err, dir.Close())
	case journal.Trial.Before == nil:
		return true, dir.Remove(datapath.PinNames()...)
	}
	return true, errors.Join(writeOwnerless(dir, beforeTrial(journal)), dir.Close())
}

// readTrial returns the journal of a datapath on trial in this network namespace, nil where there is none.
func readTrial(pinDir string) (*pins.Journal, error) {
	journal, err := pins.ReadJournal(pinDir)
	if errors.Is(err, pins.ErrNone) || errors.Is(err, pins.ErrForeignNamespace) || err == nil && journal.Trial == nil {
		return nil, nil
	}
	return journal, err
}

// beforeTrial returns the journal of before a trial, nil for none, with the ids that the trial
// has given, as flows and counters that it left refer to them, and with the repairs that it has
// counted.
func beforeTrial(left *pins.Journal) *pins.Journal {
	before := left.Trial.Before
	if before == nil {
		return nil
	}
	before.Repairs = left.Repairs
	for _, r := range left.Interfaces {
		same := func(b pins.InterfaceRecord) bool { return b.ID == r.ID }
		if i := slices.IndexFunc(before.Interfaces, same); i >= 0 {
			b := &before.Interfaces[i]
			b.Name, b.MAC = r.Name, r.MAC // of now, or of who has got the id
			identity.Rename(before, b.Index, r.Name)
			continue
		}
		r.Index = 0
		before.Interfaces = append(before.Interfaces, r)
	}
	for _, r := range left.Gateways {
		if !slices.ContainsFunc(before.Gateways, func(b pins.GatewayRecord) bool { return b.ID == r.ID }) {
			r.Gone, r.Held, r.Bridged = true, false, false
			before.Gateways = append(before.Gateways, r)
		}
	}
	return before
}

// takeBack puts the host back as it was before a trial. It may be repeated, until
// the journal is that of before.
func takeBack(dir *pins.Dir, journal *pins.Journal, log *slog.Logger) error {
	d := &detacher{dir: dir, journal: journal, log: log}
	if err := d.open(dir.Path(datapath.LinksDir)); err != nil {
		return err
	}
	defer d.close()
	before := journal.Trial.Before
	if before == nil {
		err := errors.Join(d.fallback(), d.programs(), d.sourceRepair(), d.qdiscs(), d.sysctls())
		return errors.Join(err, dir.RemoveAtOnce(datapath.MapsDir))
	}
	earlier, maps, err := datapath.Aside(dir)
	if err != nil {
		return err
	}
	defer earlier.Close()
	r := &restorer{detacher: d, before: before, earlier: earlier}
	// What is asked now is recorded by the programs that go.
	if err := datapath.GraceAt(maps, earlier); err != nil {
		log.Warn("what is answered in these seconds may be treated as what the host begins", "error", err)
	}
	if err := r.run(); err != nil {
		return err
	}
	return datapath.PutBack(dir)
}
