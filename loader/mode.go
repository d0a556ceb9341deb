package loader

import (
	"slices"

	"replypath/bpf"
	"replypath/loader/config"
	"replypath/loader/datapath"
)

// enforces tells whether the mode in force of an interface is enforce. Whoever changes something of
// the host asks this first: for an interface that only observes nothing is changed but programs and pins.
func (s *served) enforces() bool { return s != nil && s.mode == config.ModeEnforce }

// enforced are the served interfaces whose replies are moved, observed those that only count.
func (l *Loader) enforced() []*served { return l.byMode(true) }
func (l *Loader) observed() []*served { return l.byMode(false) }

func (l *Loader) byMode(enforces bool) []*served {
	return slices.DeleteFunc(l.inOrder(), func(s *served) bool { return s.enforces() != enforces })
}

// setMode notes the mode in force of an interface. Where it is another, its gateways are looked at as in a start.
func (l *Loader) setMode(s *served, mode config.Mode) {
	if s.mode == mode {
		return
	}
	if s.mode != "" {
		l.log.Info("interface has another mode", "interface", s.Name, "mode", mode)
	}
	s.mode = mode
	l.gateways.ModeChanged(s.Index)
}

// adoptMode decides about a mode that was set by hand before this start. Who
// switched to observe had a reason that a restart does not change; to enforce
// what the configuration only wants observed, it has to be said again.
func (l *Loader) adoptMode() (err error) {
	l.byHand, err = datapath.ReadMode(l.datapath.ModeByHand)
	switch l.byHand {
	case bpf.DatapathModeMODE_OBSERVE:
		l.log.Warn("mode observe was set by hand and stays in force: `replypath mode enforce` ends it")
	case bpf.DatapathModeMODE_ENFORCE:
		l.byHand = bpf.DatapathModeMODE_CONFIGURED
	}
	return err
}

// obeyConfigured ends what was set by hand and is not adopted. The interfaces have their modes
// already: nothing is left as routed in between.
func (l *Loader) obeyConfigured() error {
	mode, err := datapath.ReadMode(l.datapath.ModeByHand)
	if err != nil || mode == l.byHand {
		return err
	}
	l.tx.OnAbort(func() error { return datapath.PutMode(l.datapath.ModeByHand, mode) })
	return datapath.PutMode(l.datapath.ModeByHand, l.byHand)
}

// noteMode tells whether somebody has switched the mode since it was looked at last.
func (l *Loader) noteMode() (switched bool) {
	byHand, err := datapath.ReadMode(l.datapath.ModeByHand)
	if err != nil || byHand == l.byHand {
		return false // of what cannot be read the next reconciliation says so
	}
	l.log.Info("mode was switched", "mode", datapath.ModeInForce(byHand, l.state.Mode), "before", datapath.ModeInForce(l.byHand, l.state.Mode))
	l.byHand = byHand
	l.source.Forget() // sockets are looked for as in a start
	return true
}
