// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"github.com/cilium/ebpf"

	"replypath/bpf"
)

// layoutName is a map of one number, pinned beside the others: enum layout as
// they were made with. It goes with them when others take their place.
const layoutName = "layout"

var errLayout = errors.New("it has another layout")

// checkLayout returns an error that matches errLayout unless the maps that are
// pinned in a directory have the layout of this version.
func checkLayout(path string) error {
	m, err := ebpf.LoadPinnedMap(filepath.Join(path, layoutName), &ebpf.LoadPinOptions{ReadOnly: true})
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: none is written down", errLayout)
	}
	if err != nil {
		return fmt.Errorf("open the layout of the pinned maps: %w", err)
	}
	defer bpf.Close(m)
	var layout bpf.DatapathLayout
	if err := m.Lookup(uint32(0), &layout); err != nil {
		return fmt.Errorf("read the layout of the pinned maps: %w", err)
	}
	if layout != bpf.DatapathLayoutLAYOUT_VERSION {
		return fmt.Errorf("%w, %d rather than %d", errLayout, layout, bpf.DatapathLayoutLAYOUT_VERSION)
	}
	return nil
}

// pinLayout pins the layout of this version.
func pinLayout(path string) error {
	layout := uint32(bpf.DatapathLayoutLAYOUT_VERSION)
	m, err := ebpf.NewMap(&ebpf.MapSpec{
		Name: "rp_layout", Type: ebpf.Array, KeySize: 4, ValueSize: 4, MaxEntries: 1,
		Contents: []ebpf.MapKV{{Key: uint32(0), Value: layout}},
	})
	if err != nil {
		return fmt.Errorf("create the map of the layout: %w", err)
	}
	defer m.Close()
	if err := m.Pin(path); err != nil {
		return fmt.Errorf("pin the layout: %w", err)
	}
	return nil
}
