package loader

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"time"

	"replypath/loader/datapath"
	"replypath/loader/identity"
	"replypath/loader/pins"
)

// beginTrial writes down, where this is one, what takes it back. From the next save
// on it is taken back by whoever owns the pins next, unless it was confirmed.
func (l *Loader) beginTrial(before *pins.Journal) {
	if l.options.Trial == 0 {
		return
	}
	l.state.Trial = &pins.TrialRecord{PID: os.Getpid(), Until: time.Now().Add(l.options.Trial)}
	if !l.fresh {
		l.state.Trial.Before = before
	}
}

// checkTrial refuses a trial in the place of a datapath whose programs could not be
// put back.
func (l *Loader) checkTrial() error {
	if l.state.Trial == nil || l.state.Trial.Before == nil {
		return nil
	}
	for _, r := range l.state.Trial.Before.Interfaces {
		if _, known := l.datapath.Earlier().Programs(r.MAC != ""); r.Index != 0 && r.Attached && !known {
			return errors.New("another version has attached what is there, and it could not be put back: " +
				"end that first by replypath detach")
		}
	}
	return nil
}

// CountDown begins the time of a trial anew: however long the start took, that is for who
// has to confirm it.
func (l *Loader) CountDown() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.state.Trial == nil {
		return nil
	}
	l.state.Trial.Until = time.Now().Add(l.options.Trial)
	return l.save()
}

// Keep confirms a trial: the datapath stays, and the one before it is gone.
func (l *Loader) Keep() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	trial := l.state.Trial
	l.state.Trial = nil
	if err := l.save(); err != nil {
		l.state.Trial = trial
		return err
	}
	l.commit()
	l.reconcilePostponed()
	l.flushUnservedOrLog()
	return nil
}

// endTrial takes back what was not confirmed by a process that is gone, and returns
// the journal as it is then.
func (l *Loader) endTrial(left *pins.Journal) (*pins.Journal, error) {
	if left.Trial == nil {
		return left, nil
	}
	l.log.Warn("a trial was not confirmed, it is taken back")
	if err := takeBack(l.dir, left, l.log); err != nil {
		return nil, fmt.Errorf("take back a trial: %w", err)
	}
	before := beforeTrial(left)
	if before == nil {
		l.fresh, before = true, new(pins.Journal)
	}
	return before, l.journal.Write(before)
}

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

// writeOwnerless writes a journal that names no daemon. That of before a trial ends the trial for good.
func writeOwnerless(dir *pins.Dir, state *pins.Journal) error {
	journal, _, err := pins.CreateJournal(dir)
	if err != nil {
		return err
	}
	state.PID = 0
	return errors.Join(journal.Write(state), journal.Close())
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
		log.Warn("what is answered in these seconds may be taken for what the host begins", "error", err)
	}
	if err := r.run(); err != nil {
		return err
	}
	return datapath.PutBack(dir)
}
