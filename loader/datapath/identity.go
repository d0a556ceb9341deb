// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"fmt"
	"io"
	"reflect"

	"github.com/cilium/ebpf"

	"replypath/bpf"
)

// errAstray says that what should lead to one map leads to another. A descriptor does whose
// number somebody else in the process has closed once too often, when it has been used again, as
// cilium/ebpf 0.22 may do (bpf.Close and WhileGCPaused say how).
// What is pinned by it would stand under the name of another map, and what is read by it may be
// larger than the memory that it is read into.
var errAstray = errors.New("it leads to another map")

// identities are the ids that the kernel gave the maps of a datapath, by name. It does not give
// one again before 2^31 others.
type identities map[string]ebpf.MapID

// note notes a map that has just been opened or made.
func (i identities) note(name string, m *ebpf.Map) error {
	info, err := m.Info()
	if err != nil {
		return fmt.Errorf("look at map %s: %w", name, err)
	}
	if info.Type != m.Type() || info.KeySize != m.KeySize() || info.ValueSize != m.ValueSize() || info.MaxEntries != m.MaxEntries() {
		return fmt.Errorf("map %s: %w, a %v of %d entries", name, errAstray, info.Type, info.MaxEntries)
	}
	id, known := info.ID()
	if !known {
		return fmt.Errorf("look at map %s: the kernel does not say which it is", name)
	}
	i[name] = id
	return nil
}

// check returns an error that matches errAstray unless this is the map that was noted.
func (i identities) check(name string, m *ebpf.Map) error {
	info, err := m.Info()
	if err != nil {
		return fmt.Errorf("look at map %s: %w", name, err)
	}
	if id, _ := info.ID(); id != i[name] {
		return fmt.Errorf("map %s: %w, id %d rather than %d", name, errAstray, id, i[name])
	}
	return nil
}

// byTag returns maps by the names that they have in the object.
func byTag(opened *bpf.Maps) map[string]*ebpf.Map {
	named := make(map[string]*ebpf.Map)
	fields := reflect.ValueOf(&opened.DatapathMaps).Elem()
	for i := range fields.NumField() {
		named[fields.Type().Field(i).Tag.Get("ebpf")] = fields.Field(i).Interface().(*ebpf.Map)
	}
	return named
}

// pin pins a map at one more path, and looks at what was pinned, which stays as it is from there on: nobody else
// would before it takes the place of what was pinned earlier.
func (i identities) pin(name string, m *ebpf.Map, path string) error {
	if err := pin(m, "map "+name, path); err != nil {
		return err
	}
	pinned, err := ebpf.LoadPinnedMap(path, nil)
	if err != nil {
		return fmt.Errorf("open what was pinned as %s: %w", name, err)
	}
	return errors.Join(i.check(name, pinned), bpf.Close(pinned))
}

// pin pins a map or a program at one more path.
func pin[T interface {
	io.Closer
	Clone() (T, error)
	Pin(path string) error
}](object T, what, path string) error {
	clone, err := object.Clone() // which is pinned nowhere, so that Pin does not move it
	if err != nil {
		return fmt.Errorf("pin %s: %w", what, err)
	}
	defer bpf.Close(clone)
	if err := clone.Pin(path); err != nil {
		return fmt.Errorf("pin %s: %w", what, err)
	}
	return nil
}
