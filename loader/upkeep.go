// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"log/slog"
	"runtime"
	"time"

	"replypath/loader/datapath"
	"replypath/loader/nexthop"
	"replypath/loader/problems"
)

const (
	// lossInterval is how often the hooks are looked at: nothing tells of a TCX
	// link that somebody detaches.
	lossInterval = 500 * time.Millisecond
	// lossRest bounds the share of a processor that this takes where there are many
	// interfaces.
	lossRest = 20
)

// lookAtAll is what the slow timer does.
func (r *runner) lookAtAll() {
	r.mu.Lock()
	if r.events == nil {
		r.stopEvents()
		if err := r.watch(); err != nil {
			r.log.Error("changes are seen late", "error", err)
		}
		r.interfaces.Suspect()
		r.table.MustRead()
	}
	r.table.Verify(time.Now())
	r.verifying = true
	r.source.LookAgain()
	r.mu.Unlock()
	r.reconcileNow()
}

// poll looks at what nothing tells of, changes the host with a mode that somebody has switched, and tells whether one has.
func (r *runner) poll() (switched bool) {
	r.lookForAskers()
	r.mu.Lock()
	defer r.mu.Unlock()
	if now := time.Now(); r.rules.Look(now) {
		r.changes.note(now)
	}
	if !r.noteMode() {
		return false
	}
	r.look()
	return true
}

// noteMode tells whether somebody has switched the mode since it was looked at last.
func (r *runner) noteMode() (switched bool) {
	byHand, err := datapath.ReadMode(&r.datapath.Maps)
	if err != nil || byHand == r.byHand {
		return false // of what cannot be read the next reconciliation says so
	}
	r.log.Info("mode was switched", "mode", datapath.ModeInForce(byHand, r.state.Mode), "before", datapath.ModeInForce(r.byHand, r.state.Mode))
	r.byHand = byHand
	r.source.Forget() // sockets are looked for as in a start
	return true
}

// lookForLosses has a reconciliation put back programs that somebody has taken
// off, and sysctls. Until then the event is there that tells whether the interface
// went.
func (r *runner) lookForLosses() {
	r.mu.Lock()
	defer r.mu.Unlock()
	runtime.LockOSThread() // whose time is measured
	defer runtime.UnlockOSThread()
	begun, before := time.Now(), nexthop.ThreadTime()
	if r.tendPins(begun) {
		r.verifying = true
		r.source.LookAgain()
		r.changes.note(begun)
	}
	if !r.verifying && r.tendLosses(begun) { // else the next reconciliation looks
		r.verifying = true
		r.changes.note(begun)
	}
	if r.sysctls.Drifted() {
		r.changes.note(begun)
	}
	r.publish()
	r.losses.Reset(max(lossInterval, lossRest*(nexthop.ThreadTime()-before), time.Since(begun)))
}

// resolveGateways has gateways resolved whose time has come, and sets the timer
// for the next.
func (r *runner) resolveGateways() {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	r.gateways.Due(now)
	r.publish()
	if next := r.gateways.Next(); next.IsZero() {
		r.resolve.Stop()
	} else {
		r.resolve.Reset(next.Sub(now))
	}
}

// tendLosses looks for what somebody has taken off, and tells whether that is worth a reconciliation.
func (r *runner) tendLosses(now time.Time) (due bool) {
	due = r.attachments.Lost(now, r.interfaces.Targets())
	return r.routes.HasLost(now) || r.source.HasLost(now) || due
}

// lookForAskers has the source repair attached where somebody has asked a wildcard UDP socket.
func (r *runner) lookForAskers() {
	r.mu.Lock()
	defer r.mu.Unlock()
	asked, err := r.source.Asked(r.wantedSource())
	if err != nil || asked {
		r.noteSource(err)
	}
	if !asked {
		return
	}
	if err := r.writeSettings(); err != nil {
		r.log.Error("the source repair is not told to the programs", "error", err)
		r.changes.note(time.Now())
	}
	r.publish()
	r.saveOrLog(r.log)
}

// scopePins is of pins that cannot be put back.
const scopePins = "pins"

// tendPins puts back what somebody has removed of the pin directory, or all of it: the maps and programs are
// open here, so that no flow and no count is lost. It tells whether it did: links that were pinned
// have taken their programs along.
func (r *runner) tendPins(now time.Time) (lost bool) {
	lost, err := r.pinAgain(now)
	r.problems.Replace(scopePins, slog.LevelError, problems.Messages(err))
	return lost
}

// pinAgain bounds how often what somebody removes again and again is put back.
func (r *runner) pinAgain(now time.Time) (lost bool, _ error) {
	if r.pinRepairs.TokensAt(now) < 1 {
		return false, nil
	}
	renewed, err := r.dir.Renew(datapath.PinNames()...)
	if err != nil {
		return false, err
	}
	written, err := r.journal.PinAgain(r.dir)
	if err != nil {
		return renewed, err
	}
	pinned, err := r.datapath.PinAgain()
	if lost = renewed || written || pinned; !lost {
		return false, err
	}
	r.pinRepairs.AllowN(now, 1)
	r.countRepair(repairProgram)
	if renewed {
		r.log.Warn("the pin directory had been removed, made again", "pin_dir", r.options.PinDir)
	} else {
		r.log.Warn("pins had been removed, made again", "pin_dir", r.options.PinDir)
	}
	return true, errors.Join(err, r.forgetAside())
}

// forgetAside has a trial that is taken back end with nothing attached, where what was there before is
// not pinned any more.
func (r *runner) forgetAside() error {
	if r.state.Trial == nil || r.state.Trial.Before == nil || r.datapath.KeepsAside() {
		return nil
	}
	r.log.Warn("what was attached before the trial cannot be put back any more: its pins were removed")
	r.state.Trial.Before = nil
	return r.save()
}
