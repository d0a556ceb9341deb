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

// TakeBack ends the trial that a process has begun in a pin directory, and puts back
// what was there before. It tells whether it did: not where the trial was confirmed
// or taken back already, and not while another process owns the directory, which
// has ended the trial then.
func TakeBack(pinDir string, pid int, log *slog.Logger) (done bool, err error) {
	dir, err := pins.OwnExisting(pinDir)
	if errors.Is(err, pins.ErrNone) || errors.Is(err, pins.ErrOwned) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	journal, err := pins.ReadJournal(pinDir)
	if errors.Is(err, pins.ErrForeignNamespace) { // a trial begins in this one only
		return false, dir.Close()
	}
	if errors.Is(err, pins.ErrNone) || err == nil && journal.Namespace == (pins.Namespace{}) {
		// It was killed before it had begun: there is an empty directory, or a journal
		// without a word.
		return err == nil, dir.Remove(datapath.PinNames()...)
	}
	if err != nil || journal.Trial == nil || journal.Trial.PID != pid {
		return false, errors.Join(err, dir.Close())
	}
	if err := takeBack(dir, journal, log); err != nil {
		return false, errors.Join(err, dir.Close())
	}
	if journal.Trial.Before == nil {
		return true, dir.Remove(datapath.PinNames()...)
	}
	return true, errors.Join(writeOwnerless(dir, beforeTrial(journal)), dir.Close())
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

// EndTrial takes back a trial that was not confirmed by a process that is gone, for who owns its pins now. It returns the
// journal of before, nil where nothing was attached, and may be repeated until that one is written.
func EndTrial(dir *pins.Dir, left *pins.Journal, log *slog.Logger) (before *pins.Journal, err error) {
	if err := takeBack(dir, left, log); err != nil {
		return nil, err
	}
	return beforeTrial(left), nil
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
