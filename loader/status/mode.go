// SPDX-License-Identifier: Apache-2.0

package status

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	"replypath/bpf"
	"replypath/loader/config"
	"replypath/loader/datapath"
	"replypath/loader/pins"
)

// Mode returns the mode in force, "enforce" or "observe", with or without a
// daemon. Interfaces may be configured otherwise unless it was set by hand. The
// error matches pins.ErrNone where nothing is pinned.
func Mode(pinDir string) (string, error) {
	journal, maps, err := open(pinDir)
	if err != nil {
		return "", err
	}
	defer maps.Close()
	byHand, err := datapath.ReadMode(maps)
	if err != nil {
		return "", err
	}
	return datapath.ModeInForce(byHand, journal.Mode), nil
}

// OnlyObserves tells whether nothing is moved on any interface, and nothing is on trial. The error matches pins.ErrNone where nothing
// is pinned.
func OnlyObserves(pinDir string) (bool, error) {
	journal, maps, err := open(pinDir)
	if err != nil {
		return false, err
	}
	defer maps.Close()
	byHand, err := datapath.ReadMode(maps)
	if err != nil || journal.Trial != nil {
		return false, err
	}
	enforces := func(r pins.InterfaceRecord) bool {
		own := cmp.Or(r.Mode, journal.Mode)
		return r.Index != 0 && !r.Catches && datapath.ModeInForce(byHand, own) == string(config.ModeEnforce)
	}
	return !slices.ContainsFunc(journal.Interfaces, enforces), nil
}

// SetMode switches the mode of all interfaces at once, with or without a daemon.
// Observe stays in force until it is ended, whatever is configured later, enforce until
// the next start. A daemon changes the host with the mode, within a second; where none runs, SetMode
// returns the objects of the host that stay as they are. The error matches pins.ErrNone where nothing is pinned.
func SetMode(pinDir, mode string) (undone []string, _ error) {
	wanted, known := datapath.Modes[config.Mode(mode)]
	if !known {
		return nil, fmt.Errorf("mode %q is not one of %s, %s", mode, config.ModeEnforce, config.ModeObserve)
	}
	journal, maps, err := open(pinDir)
	if err != nil {
		return nil, err
	}
	running, err := pins.Owned(pinDir)
	if err == nil && !running {
		undone = undoneBy(journal, wanted)
	}
	if wanted == bpf.DatapathModeMODE_ENFORCE && isEnforced(journal) {
		wanted = bpf.DatapathModeMODE_CONFIGURED
	}
	return undone, errors.Join(err, datapath.PutMode(maps, wanted), maps.Close())
}

// undoneBy are the objects of the host that only a daemon would change with the mode.
func undoneBy(j *pins.Journal, wanted bpf.DatapathMode) (objects []string) {
	if wanted == bpf.DatapathModeMODE_ENFORCE {
		for _, c := range j.WouldChange {
			objects = append(objects, c.Object)
		}
		return objects
	}
	for _, s := range j.Sysctls {
		objects = append(objects, sysctlObject(s.Key))
	}
	if j.SourceCgroup != "" {
		objects = append(objects, SourceChange(j.SourceCgroup).Object)
	}
	for _, c := range fallbackChanges(j.Fallback) {
		objects = append(objects, c.Object)
	}
	return objects
}

// isEnforced tells whether every interface is enforced by configuration: nothing has to
// be set by hand then, and a reload that wants them observed is obeyed.
func isEnforced(journal *pins.Journal) bool {
	const enforce = string(config.ModeEnforce)
	return journal.Mode == enforce && !slices.ContainsFunc(journal.Interfaces, func(r pins.InterfaceRecord) bool {
		return r.Index != 0 && !r.Catches && r.Mode != enforce
	})
}
