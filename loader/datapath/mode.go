// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"

	"golang.org/x/sys/unix"

	"replypath/bpf"
	"replypath/loader/config"
)

// Modes are how the programs know those of the configuration.
var Modes = map[config.Mode]bpf.DatapathMode{
	config.ModeEnforce: bpf.DatapathModeMODE_ENFORCE,
	config.ModeObserve: bpf.DatapathModeMODE_OBSERVE,
}

// ReadMode reads the mode that is in force whatever interfaces are configured to do: observe from the end of a trial on, as
// is_enforced() in bpf/src/path.h, before that the one that was set by hand.
func ReadMode(maps *bpf.Maps) (mode bpf.DatapathMode, err error) {
	over, err := IsTrialOver(maps)
	if over || err != nil {
		return bpf.DatapathModeMODE_OBSERVE, err
	}
	if err := maps.ModeByHand.Get(&mode); err != nil {
		return mode, fmt.Errorf("read the mode that was set by hand: %w", err)
	}
	return mode, nil
}

// IsTrialOver tells whether the programs only observe because nobody has confirmed a trial in time.
func IsTrialOver(maps *bpf.Maps) (bool, error) {
	var settings bpf.DatapathSettings
	if err := maps.Configuration.Get(&settings); err != nil {
		return false, fmt.Errorf("read until when the trial is: %w", err)
	}
	now, err := Now()
	return settings.Until != 0 && now >= settings.Until, err
}

// Now is bpf_ktime_get_ns().
func Now() (uint64, error) {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return 0, fmt.Errorf("read the clock: %w", err)
	}
	return uint64(now.Nano()), nil
}

// PutMode sets a mode by hand.
func PutMode(maps *bpf.Maps, mode bpf.DatapathMode) error {
	if err := maps.ModeByHand.Set(mode); err != nil {
		return fmt.Errorf("write the mode: %w", err)
	}
	return nil
}

// keepMode takes over the mode that was set by hand from the maps of another layout: it is the first word of what user
// space tells the programs in each.
func (d *Datapath) keepMode() error {
	earlier, err := openPinned(d.dir.Path(MapsDir), bpf.Control)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	value := make([]byte, max(4, earlier.ValueSize()))
	err = errors.Join(earlier.Lookup(uint32(0), value), bpf.Close(earlier))
	if err != nil {
		return fmt.Errorf("read the mode that was set by hand before: %w", err)
	}
	return PutMode(&d.Maps, bpf.DatapathMode(binary.NativeEndian.Uint32(value)))
}

// ModeInForce returns the mode that was set by hand, else the configured one.
func ModeInForce(byHand bpf.DatapathMode, configured string) string {
	for mode, number := range Modes {
		if number == byHand {
			return string(mode)
		}
	}
	return configured
}
