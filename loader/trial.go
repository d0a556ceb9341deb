package loader

import (
	"errors"
	"fmt"
	"os"
	"time"

	"replypath/loader/detach"
	"replypath/loader/pins"
)

// beginTrial writes down, where this is one, what takes it back. From the next save
// on it is taken back by whoever owns the pins next, unless it was confirmed.
func (l start) beginTrial(before *pins.Journal) {
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
func (l start) checkTrial() error {
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

// endTrial takes back what was not confirmed by a process that is gone, and returns
// the journal as it is then.
func (l start) endTrial(left *pins.Journal) (*pins.Journal, error) {
	if left.Trial == nil {
		return left, nil
	}
	l.log.Warn("a trial was not confirmed, it is taken back")
	before, err := detach.EndTrial(l.dir, left, l.log)
	if err != nil {
		return nil, fmt.Errorf("take back a trial: %w", err)
	}
	if before == nil {
		l.fresh, before = true, new(pins.Journal)
	}
	return before, l.journal.Write(before)
}
