// SPDX-License-Identifier: Apache-2.0

// Package loader puts the datapath in place, keeps its maps current, and takes
// it away again. What is attached and pinned outlives the process; the next one
// goes on with it.
package loader

import (
	"errors"
	"time"

	"replypath/loader/config"
	"replypath/loader/datapath"
	"replypath/loader/detach"
	"replypath/loader/kernel"
	"replypath/loader/problems"
	"replypath/loader/status"
	"replypath/loader/view"
)

// Loader owns a datapath. It belongs to the network namespace of the thread that
// called New, and its methods have to be called in that namespace; apart from
// Close, they may be called from several goroutines.
type Loader struct{ *core }

// New loads the programs, attaches them to every managed interface and makes the
// maps fit the host, all in the network namespace of the calling thread. Where a
// datapath is pinned already, it is taken over without losing a flow.
//
// On error what this call did is undone, and an earlier datapath stays as it
// was. The error matches attach.ErrUnsupported where the process lacks a capability or the kernel a feature,
// pins.ErrNoBPFFS, pins.ErrOwned or pins.ErrForeignNamespace where these keep it from starting. It names the remedy.
func New(options Options) (*Loader, error) {
	if err := kernel.CheckRights(); err != nil {
		return nil, err
	}
	l := &Loader{newCore(options)}
	s := start{l.core}
	if err := s.attempt(s.steps()); err != nil {
		return nil, err
	}
	return l, nil
}

// Close ends the ownership and closes what is open, after Run has returned. The
// datapath stays in place; what is changed for as long as a gateway is silent does not, as nobody
// sees its end.
func (l *Loader) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.published.WithoutReaders(func() error {
		if l.dir == nil {
			return nil
		}
		l.stopEvents()
		l.rules.End()
		l.state.PID = 0
		err := errors.Join(l.gateways.Leave(), l.save(), l.journal.Close(), l.datapath.Close(), l.dir.Close(), l.namespace.Close())
		l.netlink.Close()
		l.readers.Close()
		l.dir = nil
		l.published.Publish(nil)
		return err
	})
}

// SetError shows an error of another part of the process in the status for as
// long as it stands; nil ends it.
func (l *Loader) SetError(name string, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err == nil {
		l.problems.Keep(name, nil)
	} else {
		l.problems.Keep(name, []string{name + ": " + problems.OneLine(err)})
	}
	l.saveOrLog(l.log)
}

// ReportConfigError shows in the status why a later configuration was refused,
// until one is accepted; nil takes it back.
func (l *Loader) ReportConfigError(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.state.ConfigErr = ""
	if err != nil {
		l.state.ConfigErr = problems.OneLine(err)
	}
	l.publish()
	l.saveOrLog(l.log)
}

// CountDown begins the time of a trial anew: however long the start took, that is for who
// has to confirm it. When it is over, the programs observe, whoever lives to take it back.
func (l *Loader) CountDown() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.state.Trial == nil {
		return nil
	}
	l.state.Trial.Until = time.Now().Add(l.options.Trial)
	return errors.Join(l.maps.Limit(l.options.Trial), l.save())
}

// Keep confirms a trial: the datapath stays, and the one before it is gone. It fails when the time is over. The programs' limit
// falls last: without one, and on trial in the journal, nobody would end what nobody has confirmed. What is left of it the
// next start takes away.
func (l *Loader) Keep() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	over, err := datapath.IsTrialOver(&l.datapath.Maps)
	if over {
		return errors.New("it came too late")
	}
	if err != nil {
		return err
	}
	trial := l.state.Trial
	l.state.Trial = nil
	if err := l.save(); err != nil {
		l.state.Trial = trial
		return err
	}
	if err := l.maps.Limit(0); err != nil {
		l.state.Trial = trial
		return errors.Join(err, l.save())
	}
	l.commit()
	l.reconcilePostponed()
	l.flushUnserved()
	return nil
}

// Effect looks at what is attached now.
func (l *Loader) Effect() (*status.Effect, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.dir == nil {
		return nil, view.ErrClosed
	}
	e, err := status.ReadEffect(l.options.PinDir, &l.state, &l.datapath.Maps, l.netlink)
	if err != nil {
		return nil, err
	}
	e.Detaching = detach.IsAnnounced(l.options.PinDir)
	return e, nil
}

// Reload puts another configuration in force. No flow is lost but those that it
// does not serve. On error the one before stays in force.
func (l *Loader) Reload(cfg *config.Config) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return reload{l.core}.to(cfg)
}
