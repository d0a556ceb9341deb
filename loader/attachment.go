package loader

import (
	"errors"
	"fmt"
	"time"

	"golang.org/x/time/rate"

	"replypath/loader/attach"
	"replypath/loader/datapath"
)

// attacher is what is asked of an attach.Attacher. In tests it may refuse.
type attacher interface {
	Attach(attach.Interface, attach.Programs) (attach.Result, error)
	Attached(attach.Interface, attach.Direction) (attach.Mechanism, bool, error)
	Detach(attach.Interface) error
	DetachFrom(attach.Interface, attach.Direction) error
	Pinned() ([]int, error)
	LacksQdisc(attach.Interface) (bool, error)
	RemoveQdisc(attach.Interface) error
}

// attachAll attaches to the served interfaces that have no programs of this process yet.
func (l *Loader) attachAll() error {
	var errs []error
	for _, s := range l.toAttach() {
		if s.mechanism == attach.Auto {
			errs = append(errs, l.attach(s))
		}
	}
	return errors.Join(append(errs, l.datapath.AddMissed())...)
}

// toAttach returns the served interfaces, those without an Ethernet header first: the verifier takes its time for
// their programs, while no others have been replaced yet.
func (l *Loader) toAttach() []*served {
	var bare, others []*served
	for _, s := range l.inOrder() {
		if s.hasHeader() {
			others = append(others, s)
		} else {
			bare = append(bare, s)
		}
	}
	return append(bare, others...)
}

// attach puts the programs on an interface, or in the place of earlier ones.
func (l *Loader) attach(s *served) error {
	if err := l.expectQdisc(s.target()); err != nil {
		return err
	}
	replaces, err := l.planReplacement(s)
	if err != nil {
		return err
	}
	result, err := l.putWatched(s)
	if err != nil {
		return l.explain(s, err)
	}
	if result.New && !replaces {
		target := s.target()
		l.tx.OnAbort(func() error { return l.attacher.Detach(target) })
	}
	// The qdisc of an earlier process that attached by clsact stays until detach:
	// to remove one from a device that is up loses packets (qdisc_graft() in
	// net/sched/sch_api.c deactivates the whole device).
	s.mechanism = result.Mechanism
	if result.New {
		l.gateways.ProgramsLost(s.Index)
	}
	if r := l.recordOf(s.Index); r != nil {
		r.Attached, r.Mechanism = true, string(result.Mechanism)
	}
	switch {
	case s.lost:
		s.lost = false
		l.countRepair(repairProgram)
		l.log.Warn("programs had been taken off, attached again", "interface", s.Name, "mechanism", result.Mechanism)
	case result.New:
		l.log.Info("attached", "interface", s.Name, "index", s.Index, "mechanism", result.Mechanism)
	}
	return nil
}

// putWatched attaches our programs. What comes in may be seen from then on only.
func (l *Loader) putWatched(s *served) (result attach.Result, err error) {
	isWatched, err := l.isWatched(s)
	if err != nil {
		return result, err
	}
	put := func() (err error) {
		result, err = l.put(l.datapath, s)
		return err
	}
	if isWatched || l.fresh {
		err = put()
	} else {
		err = l.putWhileWatched(put, s)
	}
	return result, err
}

// explain tells why there are no programs on an interface. One that has just gone
// is nobody's fault: its event is next.
func (l *Loader) explain(s *served, err error) error {
	if isAbsent, absentErr := l.isAbsent(s.Index); isAbsent && absentErr == nil {
		return nil
	}
	return errors.Join(fmt.Errorf("interface %s: %w", s.Name, err), l.dropUnusedQdisc(s.target()))
}

// dropUnusedQdisc is dropQdisc where no program of ours is left.
func (l *Loader) dropUnusedQdisc(target attach.Interface) error {
	attached, err := l.attachedAnywhere(target)
	if attached || err != nil {
		return err
	}
	return l.dropQdisc(target, false)
}

// put attaches the programs of a datapath that fit the interface.
func (l *Loader) put(d *datapath.Datapath, s *served) (attach.Result, error) {
	programs, err := d.Programs(s.hasHeader())
	if err != nil {
		return attach.Result{}, err
	}
	return l.attacher.Attach(s.target(), programs)
}

// planReplacement notes how a start that fails puts back programs of an earlier process, by the mechanism that they are
// attached by, before any of them is replaced: the kernel may take one of ours and refuse the other. Theirs work on its
// maps; where it did not pin them, ours stay. It tells whether there are any.
func (l *Loader) planReplacement(s *served) (replaces bool, err error) {
	err = l.tx.Plan(func() (func() error, error) {
		target := s.target()
		mechanism, err := attach.MechanismOf(l.attacher, target, attach.Directions[:]...)
		if err != nil || mechanism == attach.Auto {
			return nil, err
		}
		replaces = true
		earlier, known := l.datapath.Earlier().Programs(s.hasHeader())
		if !known {
			return nil, nil
		}
		return l.attachingAgain(target, mechanism, earlier), nil
	})
	return replaces, err
}

// attachingAgain attaches programs again as they were.
func (l *Loader) attachingAgain(target attach.Interface, by attach.Mechanism, earlier attach.Programs) func() error {
	before := attach.New(l.linksDir(), l.netlink, by)
	return func() error {
		_, err := before.Attach(target, earlier)
		return err
	}
}

// newAllowance bounds how often what somebody takes away is put back at once. Two
// who answer each other would never come to an end, and a clsact qdisc that is
// added costs packets each time: after a few in a row it has to wait for the slow
// timer.
func newAllowance() *rate.Limiter { return rate.NewLimiter(rate.Every(slowInterval/2), 5) }

// tendLosses looks for programs that somebody has taken off, and tries again to
// put back those that could not be. It tells whether that is worth a
// reconciliation. What cannot be looked at is left to the slow timer, which tells
// why.
func (l *Loader) tendLosses(now time.Time) (due bool) {
	for _, s := range l.inOrder() {
		switch {
		case s.lost:
			due = l.attach(s) == nil || due
		case s.mechanism != attach.Auto:
			complete, err := l.isAttached(s.target())
			due = err == nil && !complete && s.repairs.AllowN(now, 1) || due
		}
	}
	return l.routes.HasLost(now) || l.source.HasLost(now) || due
}

// verify looks whether the programs are still where they were put; attachAll
// puts them back where they are not.
func (l *Loader) verify() error {
	var errs []error
	for _, s := range l.inOrder() {
		if s.mechanism == attach.Auto {
			continue
		}
		complete, err := l.isAttached(s.target())
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if complete {
			continue
		}
		s.mechanism, s.lost = attach.Auto, true
	}
	return errors.Join(errs...)
}

// isAttached tells whether both programs are attached.
func (l *Loader) isAttached(target attach.Interface) (bool, error) {
	mechanism, err := attach.MechanismOf(l.attacher, target, attach.Directions[:]...)
	return mechanism != attach.Auto, err
}

// detachStrays takes the programs off interfaces that no record knows, as a
// process leaves them that is killed in its start.
func (l *Loader) detachStrays() error {
	pinned, err := l.attacher.Pinned()
	if err != nil {
		return err
	}
	var errs []error
	for _, index := range pinned {
		if l.recordOf(index) == nil && !l.isFallback(index) {
			target := attach.Interface{Index: index, Name: fmt.Sprintf("interface %d", index)}
			errs = append(errs, l.attacher.Detach(target))
		}
	}
	return errors.Join(errs...)
}

// isFallback tells whether an earlier process knew the device of the fallback routes
// by this index.
func (l *Loader) isFallback(index int) bool {
	return l.state.Fallback != nil && l.state.Fallback.Index == index
}
