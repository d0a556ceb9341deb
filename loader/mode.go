package loader

import (
	"errors"
	"fmt"
	"slices"

	"github.com/cilium/ebpf"

	"replypath/bpf"
	"replypath/loader/config"
	"replypath/loader/datapath"
	"replypath/loader/pins"
)

// onlyKey is that of the only entry of an array that holds one.
const onlyKey = uint32(0)

func readMode(table *ebpf.Map) (bpf.DatapathMode, error) {
	var mode bpf.DatapathMode
	if err := table.Lookup(onlyKey, &mode); err != nil {
		return mode, fmt.Errorf("read the mode that was set by hand: %w", err)
	}
	return mode, nil
}

func putMode(table *ebpf.Map, mode bpf.DatapathMode) error {
	if err := table.Put(onlyKey, mode); err != nil {
		return fmt.Errorf("write the mode: %w", err)
	}
	return nil
}

// adoptMode decides about a mode that was set by hand before this start. Who
// switched to observe had a reason that a restart does not change; to enforce
// what the configuration only wants observed, it has to be said again. The interfaces
// have their modes already: nothing is left as routed in between.
func (l *Loader) adoptMode() error {
	mode, err := readMode(l.datapath.ModeByHand)
	if err != nil {
		return err
	}
	switch mode {
	case bpf.DatapathModeMODE_OBSERVE:
		l.log.Warn("mode observe was set by hand and stays in force: `replypath mode enforce` ends it")
	case bpf.DatapathModeMODE_ENFORCE:
		l.rollback.add(func() error { return putMode(l.datapath.ModeByHand, mode) })
		return putMode(l.datapath.ModeByHand, bpf.DatapathModeMODE_CONFIGURED)
	}
	return nil
}

// modeInForce returns the mode that was set by hand, else the configured one.
func modeInForce(byHand bpf.DatapathMode, configured string) string {
	switch byHand {
	case bpf.DatapathModeMODE_ENFORCE:
		return string(config.ModeEnforce)
	case bpf.DatapathModeMODE_OBSERVE:
		return string(config.ModeObserve)
	}
	return configured
}

// Mode returns the mode in force, "enforce" or "observe", with or without a
// daemon. Interfaces may be configured otherwise unless it was set by hand. The
// error matches ErrNotAttached where nothing is pinned.
func Mode(pinDir string) (string, error) {
	journal, err := pins.ReadJournal(pinDir)
	if err != nil {
		return "", err
	}
	maps, err := datapath.OpenMaps(pinDir)
	if err != nil {
		return "", err
	}
	defer maps.Close()
	byHand, err := readMode(maps.ModeByHand)
	if err != nil {
		return "", err
	}
	return modeInForce(byHand, journal.Mode), nil
}

// SetMode switches the mode of all interfaces at once, with or without a daemon.
// Observe stays in force until it is ended, whatever is configured later, enforce until
// the next start. The error matches ErrNotAttached where nothing is pinned.
func SetMode(pinDir, mode string) error {
	wanted, known := modes[config.Mode(mode)]
	if !known {
		return fmt.Errorf("mode %q is not one of %s, %s", mode, config.ModeEnforce, config.ModeObserve)
	}
	journal, err := pins.ReadJournal(pinDir)
	if err != nil {
		return err
	}
	maps, err := datapath.OpenMaps(pinDir)
	if err != nil {
		return err
	}
	if wanted == bpf.DatapathModeMODE_ENFORCE && isEnforced(journal) {
		wanted = bpf.DatapathModeMODE_CONFIGURED
	}
	return errors.Join(putMode(maps.ModeByHand, wanted), maps.Close())
}

// isEnforced tells whether every interface is enforced by configuration: nothing has to
// be set by hand then, and a reload that wants them observed is obeyed.
func isEnforced(journal *pins.Journal) bool {
	const enforce = string(config.ModeEnforce)
	return journal.Mode == enforce && !slices.ContainsFunc(journal.Interfaces, func(r pins.InterfaceRecord) bool {
		return r.Index != 0 && r.Mode != enforce
	})
}

// noteMode logs that somebody has switched the mode.
func (l *Loader) noteMode() {
	byHand, err := readMode(l.datapath.ModeByHand)
	if err != nil {
		return // the next reconciliation says so
	}
	mode := modeInForce(byHand, l.state.Mode)
	if l.mode != "" && l.mode != mode {
		l.log.Info("mode was switched", "mode", mode, "before", l.mode)
	}
	l.mode = mode
}
