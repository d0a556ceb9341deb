package datapath

import (
	"errors"
	"fmt"
	"reflect"

	"github.com/cilium/ebpf"

	"replypath/bpf"
)

// errAstray says that what should lead to one map leads to another. A descriptor does whose
// number somebody else in the process has closed once too often, when it has been used again, as
// cilium/ebpf 0.22 may do (bpf.Close and whileGCPaused say how).
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

// checkMaps checks the maps that are read and written, and those that are going to be pinned.
func (d *Datapath) checkMaps() error {
	var errs []error
	for name, m := range d.all {
		errs = append(errs, d.ids.check(name, m))
	}
	for name, m := range byName(&d.DatapathMaps) {
		errs = append(errs, d.ids.check(name, m))
	}
	return errors.Join(errs...)
}

// byName returns the maps by the names that they have in the object.
func byName(maps *bpf.DatapathMaps) map[string]*ebpf.Map {
	named := make(map[string]*ebpf.Map)
	fields := reflect.ValueOf(maps).Elem()
	for i := range fields.NumField() {
		named[fields.Type().Field(i).Tag.Get("ebpf")] = fields.Field(i).Interface().(*ebpf.Map)
	}
	return named
}

// checkPinned checks what a pin leads to, which stays as it is from there on.
func (i identities) checkPinned(name, path string) error {
	pinned, err := ebpf.LoadPinnedMap(path, nil)
	if err != nil {
		return fmt.Errorf("open what was pinned as %s: %w", name, err)
	}
	return errors.Join(i.check(name, pinned), bpf.Close(pinned))
}
