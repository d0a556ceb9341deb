package loader

import (
	"errors"
	"fmt"
	"time"

	"replypath/loader/attach"
	"replypath/loader/datapath"
)

// switchPatience is how long the programs of all interfaces may take to be replaced.
// Those for devices without an Ethernet header, and those of the source repair,
// are only loaded then.
const switchPatience = 30 * time.Second

// succeed attaches the programs of a datapath with other flow tables than the earlier
// one's. What came in after the flows were copied, or by an interface whose turn has
// not come yet, is in the tables of that one, which is asked for a while.
func (l *Loader) succeed(to *datapath.Datapath, attach func() error) error {
	return inGrace(to, func() error {
		if err := errors.Join(to.Fill(), to.AskEarlier()); err != nil {
			return err
		}
		err := attach()
		l.askEarlierUntil = time.Now().Add(datapath.GracePeriod)
		return err
	})
}

// switchTo attaches the programs of a datapath with other flow tables.
func (l *Loader) switchTo(to *datapath.Datapath) error {
	return l.succeed(to, func() error { return l.replacePrograms(to) })
}

// switchBack attaches the programs of the datapath in force once more.
func (l *Loader) switchBack() error {
	return inGrace(l.datapath, func() error { return l.replacePrograms(l.datapath) })
}

// inGrace attaches programs while what the host sends may answer a question that
// they do not know: the answer must not pass for a beginning.
func inGrace(to *datapath.Datapath, attach func() error) error {
	if err := to.Grace(switchPatience); err != nil {
		return err
	}
	return errors.Join(attach(), to.Grace(datapath.GracePeriod))
}

// replaceEgress puts the egress programs of a datapath that asks the earlier one in the
// place of that one's, on all interfaces, before the first ingress program is
// replaced: what is recorded in the tables of either is known to all of them from then on.
func (l *Loader) replaceEgress(by *datapath.Datapath) error {
	if !by.AsksEarlier() {
		return nil
	}
	var errs []error
	for _, s := range l.inOrder() {
		if err := l.replaceEgressOf(s, by); err != nil {
			errs = append(errs, fmt.Errorf("interface %s: %w", s.Name, err))
		}
	}
	return errors.Join(errs...)
}

func (l *Loader) replaceEgressOf(s *served, by *datapath.Datapath) error {
	programs, err := by.Programs(s.hasHeader())
	if err != nil {
		return err
	}
	replaced, err := l.attacher.Replace(s.target(), attach.Egress, programs.Egress)
	if !replaced || !l.starting() {
		return err
	}
	if earlier, known := by.Earlier().Programs(s.hasHeader()); known {
		l.rollback.add(func() error {
			_, err := l.attacher.Replace(s.target(), attach.Egress, earlier.Egress)
			return err
		})
	}
	return nil
}

// endSuccession stops asking the earlier datapath once nobody waits for an answer to
// what only that one has seen.
func (l *Loader) endSuccession(now time.Time) {
	if now.Before(l.askEarlierUntil) {
		return
	}
	if err := l.datapath.StopAsking(); err != nil {
		l.log.Error("the earlier datapath is still asked", "error", err)
	}
}
