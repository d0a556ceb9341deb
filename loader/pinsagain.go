package loader

import (
	"errors"
	"log/slog"
	"time"

	"replypath/loader/datapath"
)

// scopePins is of pins that cannot be put back.
const scopePins = "pins"

// tendPins puts back what somebody has removed of the pin directory, or all of it: the maps and programs are
// open here, so that no flow and no count is lost. It tells whether it did: links that were pinned
// have taken their programs along.
func (l *Loader) tendPins(now time.Time) (lost bool) {
	lost, err := l.pinAgain(now)
	l.problems.replace(scopePins, slog.LevelError, messages([]error{err}))
	return lost
}

// pinAgain bounds how often what somebody removes again and again is put back.
func (l *Loader) pinAgain(now time.Time) (lost bool, _ error) {
	if l.pinRepairs.TokensAt(now) < 1 {
		return false, nil
	}
	renewed, err := l.dir.Renew(datapath.PinNames()...)
	if err != nil {
		return false, err
	}
	written, err := l.journal.PinAgain(l.dir)
	if err != nil {
		return renewed, err
	}
	pinned, err := l.datapath.PinAgain()
	if lost = renewed || written || pinned; !lost {
		return false, err
	}
	l.pinRepairs.AllowN(now, 1)
	l.countRepair(repairProgram)
	if renewed {
		l.log.Warn("the pin directory had been removed, made again", "pin_dir", l.options.PinDir)
	} else {
		l.log.Warn("pins had been removed, made again", "pin_dir", l.options.PinDir)
	}
	return true, errors.Join(err, l.forgetAside())
}

// forgetAside has a trial that is taken back end with nothing attached, where what was there before is
// not pinned any more.
func (l *Loader) forgetAside() error {
	if l.state.Trial == nil || l.state.Trial.Before == nil || l.datapath.KeepsAside() {
		return nil
	}
	l.log.Warn("what was attached before the trial cannot be put back any more: its pins were removed")
	l.state.Trial.Before = nil
	return l.save()
}
