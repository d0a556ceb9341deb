// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"fmt"

	"github.com/cilium/ebpf"

	"replypath/bpf"
	"replypath/loader/config"
)

// Modes are how the programs know those of the configuration.
var Modes = map[config.Mode]bpf.DatapathMode{
	config.ModeEnforce: bpf.DatapathModeMODE_ENFORCE,
	config.ModeObserve: bpf.DatapathModeMODE_OBSERVE,
}

// ReadMode reads the mode that was set by hand from its map.
func ReadMode(table *ebpf.Map) (bpf.DatapathMode, error) {
	var mode bpf.DatapathMode
	if err := table.Lookup(uint32(0), &mode); err != nil {
		return mode, fmt.Errorf("read the mode that was set by hand: %w", err)
	}
	return mode, nil
}

// PutMode sets a mode by hand.
func PutMode(table *ebpf.Map, mode bpf.DatapathMode) error {
	if err := table.Put(uint32(0), mode); err != nil {
		return fmt.Errorf("write the mode: %w", err)
	}
	return nil
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
