package loader

import (
	"errors"
	"fmt"
	"time"

	"replypath/loader/attach"
	"replypath/loader/attachment"
	"replypath/loader/datapath"
	"replypath/loader/fallback"
)

// askPeriod is how long the earlier datapath is asked once all programs are replaced.
const askPeriod = 2 * time.Second

// handOver attaches the programs of a datapath with other flow tables than the earlier
// one's. What came in after the flows were copied, or by an interface whose turn has
// not come yet, is in the tables of that one, which is asked for a while.
func (l *Loader) handOver(to *datapath.Datapath, attach func() error) error {
	return inGrace(to, func() error {
		if err := to.Fill(); err != nil {
			return err
		}
		if err := to.AskEarlier(); err != nil {
			l.log.Warn("flows that begin while the flow tables are replaced are known with their next packet", "error", err)
		}
		err := attach()
		l.askEarlierUntil = time.Now().Add(askPeriod)
		return err
	})
}

// switchTo attaches the programs of a datapath with other flow tables.
func (l *Loader) switchTo(to *datapath.Datapath) error {
	return l.handOver(to, func() error { return errors.Join(l.replaceEgress(to), l.replacePrograms(to)) })
}

// switchBack attaches the programs of the datapath in force once more.
func (l *Loader) switchBack() error {
	return inGrace(l.datapath, func() error { return l.replacePrograms(l.datapath) })
}

// inGrace attaches programs while what the host sends may answer a question that
// they do not know: the answer must not pass for a beginning.
func inGrace(to *datapath.Datapath, attach func() error) error {
	if err := to.Grace(attachment.Patience); err != nil {
		return err
	}
	err := attach()
	period := datapath.GracePeriod
	if to.AsksEarlier() {
		period += askPeriod // who is asked no more may take the answer for a beginning
	}
	return errors.Join(err, to.Grace(period))
}

// replaceEgress puts the egress programs of a datapath that asks the earlier one in the
// place of that one's, on all interfaces, before the first ingress program is
// replaced: what is recorded in the tables of either is known to all of them from then on.
func (l *Loader) replaceEgress(by *datapath.Datapath) error {
	if !by.AsksEarlier() || l.egressOf == by {
		return nil
	}
	// The verifier takes its time for those that are not loaded yet.
	programs := make(map[bool]attach.Programs)
	for _, s := range l.interfaces.All() {
		var err error
		if programs[s.HasHeader()], err = by.Programs(s.HasHeader()); err != nil {
			return err
		}
	}
	var errs []error
	for _, s := range l.interfaces.All() {
		earlier, _ := by.Earlier().Programs(s.HasHeader())
		errs = append(errs, l.replaceEgressOf(s.Target(), programs[s.HasHeader()], earlier))
	}
	if f := l.state.Fallback; f != nil && f.Index != 0 {
		earlier, _ := by.Earlier().FallbackPrograms()
		errs = append(errs, l.openGate(f.Index, by.Earlier().Gate()),
			l.replaceEgressOf(fallback.Target(f.Index), by.FallbackPrograms(), earlier))
	}
	err := errors.Join(errs...)
	if err == nil {
		l.egressOf = by
	}
	return err
}

// replaceEgressOf does so on one interface, if there is a program. A start that fails
// takes it back.
func (l *Loader) replaceEgressOf(target attach.Interface, by, earlier attach.Programs) error {
	replaced, err := l.attacher.Replace(target, attach.Egress, by.Egress)
	if err != nil {
		return fmt.Errorf("interface %s: %w", target.Name, err)
	}
	if replaced && earlier.Egress != nil {
		l.tx.OnAbort(func() error {
			_, err := l.attacher.Replace(target, attach.Egress, earlier.Egress)
			return err
		})
	}
	return nil
}

// endHandover stops asking the earlier datapath once nobody waits for an answer to
// what only that one has seen.
func (l *Loader) endHandover(now time.Time) {
	if !l.datapath.AsksEarlier() || now.Before(l.askEarlierUntil) {
		return
	}
	if err := l.stopAsking(); err != nil {
		l.log.Error("the earlier datapath is still asked, or the fallback routes ask nobody", "error", err)
	}
}

// stopAsking has the earlier datapath asked no more, and the fallback routes ask the gate.
func (l *Loader) stopAsking() error {
	if err := l.datapath.StopAsking(); err != nil {
		return err
	}
	return l.haveRoutesAsk(l.datapath)
}
