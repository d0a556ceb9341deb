// SPDX-License-Identifier: Apache-2.0

// Package datapath loads the programs and opens their maps, pinned ones first,
// so that a new process goes on with what an earlier one left.
package datapath

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"replypath/bpf"
)

// OpenMaps opens the pinned maps for reading, and for writing entries. They are
// all of one datapath, also while another takes its place. The error matches
// pins.ErrNone where there are none, but not where there are some of another
// version.
func OpenMaps(dir string) (*bpf.Maps, error) {
	var opened *bpf.Maps
	err := withPinned(dir, func(path string) (err error) {
		opened, err = openMaps(path)
		return err
	})
	return opened, err
}

// IsPinned tells whether a map that was opened earlier is the one that is pinned by its
// name now, and not that of a datapath before it. The error matches pins.ErrNone where
// nothing is pinned.
func IsPinned(dir, name string, opened *ebpf.Map) (bool, error) {
	before, now := make(identities), make(identities)
	err := withPinned(dir, func(path string) error {
		clear(now)
		pinned, err := openPinned(path, name)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		return errors.Join(before.note(name, opened), now.note(name, pinned), bpf.Close(pinned))
	})
	is, there := now[name]
	return there && is == before[name], err
}

// openMaps opens the maps that are pinned in a directory.
func openMaps(path string) (*bpf.Maps, error) {
	if err := checkLayout(path); err != nil {
		return nil, fmt.Errorf("the pinned maps were made by another version, restart the daemon: %w", err)
	}
	shapes := bpf.Shapes()
	pinned := make(map[string]*ebpf.Map)
	defer closeAll(pinned)
	for name, mapSpec := range shapes {
		m, err := openPinned(path, name)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("map %s is missing: the others were made by another version, restart the daemon", name)
		}
		if err != nil {
			return nil, err
		}
		pinned[name] = m
		if err := compatible(mapSpec, m); err != nil && !errors.Is(err, errSize) {
			return nil, fmt.Errorf("pinned map %s was made by another version, restart the daemon: %w", name, err)
		}
		mapSpec.MaxEntries = m.MaxEntries()
	}
	var opened bpf.Maps
	if err := opened.Use(shapes, pinned); err != nil {
		return nil, fmt.Errorf("open pinned maps: %w", err)
	}
	return &opened, nil
}

// openPinned opens the map of this name. The error matches fs.ErrNotExist where there is none.
func openPinned(path, name string) (*ebpf.Map, error) {
	m, err := ebpf.LoadPinnedMap(filepath.Join(path, pinName(name)), nil)
	if err != nil {
		return nil, fmt.Errorf("open pinned map %s: %w", name, err)
	}
	return m, nil
}

// pinName is how a map is called where it is pinned: there a dot is not allowed.
func pinName(name string) string {
	if name == bpf.Scratch {
		return "scratch"
	}
	return strings.TrimPrefix(name, ".data.")
}

var errSize = errors.New("another size")

// compatible returns nil when the map can serve as the specified one, errSize
// when only its capacity differs.
func compatible(spec *ebpf.MapSpec, m *ebpf.Map) error {
	switch {
	case m.Type() != spec.Type:
		return fmt.Errorf("it is a %v, not a %v", m.Type(), spec.Type)
	case m.KeySize() != spec.KeySize:
		return fmt.Errorf("its keys have %d bytes, not %d", m.KeySize(), spec.KeySize)
	case m.ValueSize() != spec.ValueSize:
		return fmt.Errorf("its values have %d bytes, not %d", m.ValueSize(), spec.ValueSize)
	case m.Flags() != flagsOf(spec):
		return fmt.Errorf("its flags are %#x, not %#x", m.Flags(), flagsOf(spec))
	case m.MaxEntries() != spec.MaxEntries:
		return errSize
	}
	return nil
}

// flagsOf returns the flags that the kernel shows of such a map. It gives a device
// map one of its own (kernel/bpf/devmap.c, dev_map_init_map).
func flagsOf(spec *ebpf.MapSpec) uint32 {
	if spec.Type == ebpf.DevMap {
		return spec.Flags | unix.BPF_F_RDONLY_PROG
	}
	return spec.Flags
}

func closeAll(maps map[string]*ebpf.Map) {
	for _, m := range maps {
		bpf.Close(m)
	}
}
