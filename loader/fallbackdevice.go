package loader

import (
	"errors"
	"fmt"
	"time"

	"replypath/loader/attach"
	"replypath/loader/datapath"
	"replypath/loader/discover"
	"replypath/loader/fallback"
	"replypath/loader/pins"
)

// findFallbackDevice finds the device or makes it. Where it cannot be told whether it is there, it counts as the
// one of before: the routes to it, and what gives way to them, stay.
func (l *Loader) findFallbackDevice() error {
	r := &l.fallback
	before := r.device
	device, err := fallback.Find(l.netlink, l.state.Fallback != nil)
	if err != nil {
		return err
	}
	r.device = device
	if r.device == nil {
		r.deleted = r.deleted || before != nil
		if err := l.makeOrAwaitFallbackDevice(); err != nil {
			return err
		}
	}
	r.deleted = false
	if before == nil || before.Index != r.device.Index {
		r.served, r.how, r.asked = nil, attach.Auto, nil
	} else {
		r.device.Plain = before.Plain
	}
	l.recordFallback()
	return nil
}

// makeOrAwaitFallbackDevice makes the device, but not at once where somebody deletes it again and again.
func (l *Loader) makeOrAwaitFallbackDevice() error {
	deleted := l.fallback.deleted
	if deleted && !l.deviceRepairs.Allow() {
		return fmt.Errorf("the device %s is %w", discover.OwnDevice, errDeletedAgain)
	}
	if err := l.makeFallbackDevice(); err != nil {
		return err
	}
	if deleted {
		l.fallback.families, l.fallback.waiting = nil, nil // they went with it
		l.countRepair(repairRoute)
		l.log.Warn("the device of the fallback route had been deleted, made again", "interface", discover.OwnDevice)
	}
	return nil
}

// errDeletedAgain says that what somebody deletes again and again has to wait (newAllowance).
var errDeletedAgain = errors.New("deleted again and again: it is made again after a pause, find out who deletes it (ip monitor)")

// recordFallback notes how the device is found, and by what its programs are attached where this
// process has attached them.
func (l *Loader) recordFallback() {
	r := &l.fallback
	record := &pins.FallbackRecord{Index: r.device.Index, Kind: r.device.Kind, Mechanism: string(r.how)}
	if l.state.Fallback != nil {
		record.Bound = l.state.Fallback.Bound
	}
	l.state.Fallback = record
}

// makeFallbackDevice writes down what it is about to do: detach then knows whose
// the device is.
func (l *Loader) makeFallbackDevice() (err error) {
	l.fallback.tried = time.Now()
	l.state.Fallback = &pins.FallbackRecord{}
	if err := l.save(); err != nil {
		return err
	}
	l.tx.OnAbort(l.removeFallbackDevice)
	l.fallback.device, err = fallback.Create(l.netlink)
	if err != nil {
		return errors.Join(err, l.removeFallbackDevice())
	}
	l.log.Info("made the device of the fallback route", "interface", discover.OwnDevice,
		"kind", l.fallback.device.Kind, "index", l.fallback.device.Index)
	return nil
}

// removeFallbackDevice deletes the device, whoever made it: its record says that it
// was one of us.
func (l *Loader) removeFallbackDevice() error {
	device, err := fallback.Find(l.netlink, l.state.Fallback != nil)
	if err != nil {
		return err
	}
	if device != nil {
		if err := fallback.Remove(l.netlink, device); err != nil {
			return err
		}
		err = l.attacher.Detach(fallback.Target(device.Index)) // what is left of its pins
	}
	r := &l.fallback
	*r = fallbackRoute{defaults: r.defaults, covered: r.covered, shadowed: r.shadowed, planned: r.planned, toldCovered: r.toldCovered, tried: r.tried}
	l.state.Fallback = nil
	return err
}

// attachFallback attaches the program that moves replies off the device and behind
// it the one where everything else ends, unless they are there. The first must not
// get behind the second: where one is missing, both are attached anew.
func (l *Loader) attachFallback() (err error) {
	r := &l.fallback
	defer func() { r.lost = err != nil }()
	target := fallback.Target(r.device.Index)
	mechanism, err := l.mechanismOfFallback()
	complete := mechanism != attach.Auto
	if err != nil || complete && r.served == l.datapath {
		return err
	}
	if !complete {
		if err := l.attacher.DetachFrom(target, attach.Last); err != nil {
			return err
		}
	} else if earlier, known := l.datapath.Earlier().FallbackPrograms(); known {
		l.tx.OnAbort(func() error { return l.attacher.RemoveQdisc(target) }) // one that is empty then
		l.tx.OnAbort(l.attachingAgain(target, mechanism, earlier))
	}
	lost := r.served == l.datapath
	if err := l.replaceFallback(l.datapath); err != nil {
		return err
	}
	if lost {
		l.countRepair(repairProgram)
		l.log.Warn("programs had been taken off, attached again", "interface", discover.OwnDevice)
	}
	return nil
}

// mechanismOfFallback returns how both programs are attached to the device, attach.Auto
// where one is missing.
func (l *Loader) mechanismOfFallback() (attach.Mechanism, error) {
	return l.mechanismOf(fallback.Target(l.fallback.device.Index), attach.Egress, attach.Last)
}

// hasLostFallback tells whether somebody has taken one of them off, or whether they are back
// that could not be put back so far. Another problem of the device is none of theirs.
func (l *Loader) hasLostFallback(now time.Time) bool {
	if l.fallback.device == nil {
		return false
	}
	mechanism, err := l.mechanismOfFallback()
	switch {
	case err != nil || mechanism != attach.Auto:
		return false
	case l.fallback.lost:
		return l.attachFallback() == nil
	}
	return l.fallbackRepairs.AllowN(now, 1)
}

// replaceFallback puts the programs of a datapath on the device, in the place of
// earlier ones if there are any.
func (l *Loader) replaceFallback(by *datapath.Datapath) error {
	r := &l.fallback
	if r.device == nil {
		return nil
	}
	result, err := l.attacher.Attach(fallback.Target(r.device.Index), by.FallbackPrograms())
	if err != nil {
		return fmt.Errorf("interface %s: %w", discover.OwnDevice, err)
	}
	r.served, r.how = by, result.Mechanism
	l.recordFallback()
	return nil
}
