// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"runtime/debug"
	"slices"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"replypath/bpf"
)

// notesName is a map, pinned beside the others: for each program that is pinned with them, by its name, a digest of which
// one it is and what it was made of. One that it knows is not loaded once more. The map goes with the others when a new
// datapath takes their place.
const notesName = "verified"

type (
	programName [16]byte
	digest      [sha256.Size]byte
)

var notesSpec = ebpf.MapSpec{
	Name: "rp_verified", Type: ebpf.Hash,
	KeySize: uint32(len(programName{})), ValueSize: uint32(len(digest{})), MaxEntries: 32,
}

// notebook knows of what the programs of a datapath are made, and notes it.
type notebook struct {
	opts    Options
	maps    *mapSet
	add     func(programs map[string]*ebpf.Program) error // to the datapath
	notes   *ebpf.Map                                     // of what they are made
	earlier *ProgramSet
	noted   map[programName]digest // of earlier
}

// readNotes reads those that are pinned in a directory. Where none can be read, every program is loaded.
func readNotes(path string) map[programName]digest {
	m, err := ebpf.LoadPinnedMap(filepath.Join(path, notesName), &ebpf.LoadPinOptions{ReadOnly: true})
	if err != nil {
		return nil
	}
	defer bpf.Close(m)
	if notesSpec.Compatible(m) != nil {
		return nil
	}
	var (
		notes = make(map[programName]digest)
		name  programName
		note  digest
		all   = m.Iterate()
	)
	for all.Next(&name, &note) {
		notes[name] = note
	}
	return notes
}

// origin tells of what the programs of this process are made: object, constants, kernel and maps. The build is part of it
// as it has a hand in how they are loaded.
func (n *notebook) origin() (origin digest, err error) {
	c, err := n.opts.constants()
	if err != nil {
		return origin, err
	}
	var kernel unix.Utsname
	if err := unix.Uname(&kernel); err != nil {
		return origin, fmt.Errorf("ask for the kernel's version: %w", err)
	}
	build, _ := debug.ReadBuildInfo()
	h := sha256.New()
	fmt.Fprintf(h, "%v\n%x %q\n%+v\n", build, bpf.ObjectDigest(), n.opts.object().Name, c)
	fmt.Fprintf(h, "%s %s %s\n", kernel.Release, kernel.Version, kernel.Machine)
	for _, name := range slices.Sorted(maps.Keys(n.maps.ids)) {
		fmt.Fprintln(h, name, n.maps.ids[name])
	}
	h.Sum(origin[:0])
	return origin, nil
}

// noteOf returns what is noted of a program of this origin. The kernel does not give its id again before 2^31 others, and
// the maps that it uses cannot be changed.
func noteOf(origin digest, namespace uint64, program *ebpf.Program) (note digest, err error) {
	info, err := program.Info()
	if err != nil {
		return note, err
	}
	id, hasID := info.ID()
	maps, hasMaps := info.MapIDs()
	if !hasID || !hasMaps {
		return note, fmt.Errorf("the kernel does not say which program it is: %w", ebpf.ErrNotSupported)
	}
	slices.Sort(maps)
	h := sha256.New()
	fmt.Fprintln(h, origin, namespace, info.Name, info.Type, info.Tag, id, maps)
	h.Sum(note[:0])
	return note, nil
}

// takeOver adds programs that an earlier process has pinned, if loading these here would make the same: all, or none.
func (n *notebook) takeOver(namespace uint64, wanted ...string) (taken bool, err error) {
	origin, err := n.origin()
	if err != nil {
		return false, nil //nolint:nilerr
	}
	programs := make(map[string]*ebpf.Program)
	for _, name := range wanted {
		earlier := n.earlier.program(name)
		if !n.isNoted(origin, namespace, name, earlier) {
			return false, nil
		}
		programs[name] = earlier
	}
	for name, earlier := range programs {
		if programs[name], err = earlier.Clone(); err != nil {
			return false, fmt.Errorf("take over program %s: %w", name, err)
		}
	}
	return true, errors.Join(n.add(programs), n.note(origin, namespace, programs))
}

func (n *notebook) isNoted(origin digest, namespace uint64, name string, earlier *ebpf.Program) bool {
	if earlier == nil {
		return false
	}
	note, err := noteOf(origin, namespace, earlier)
	noted, has := n.noted[keyOf(name)]
	return err == nil && has && noted == note
}

// load has load load programs, adds them, and notes what they were made of.
func (n *notebook) load(namespace uint64, load func() (map[string]*ebpf.Program, error)) error {
	programs, err := load()
	if err := errors.Join(err, n.add(programs)); err != nil {
		return err
	}
	origin, err := n.origin()
	if err != nil {
		return nil // they are loaded anew by the next start
	}
	return n.note(origin, namespace, programs)
}

// note notes of what programs were made that are pinned, or going to be.
func (n *notebook) note(origin digest, namespace uint64, programs map[string]*ebpf.Program) error {
	for name, program := range programs {
		note, err := noteOf(origin, namespace, program)
		if err == nil {
			err = n.notes.Put(keyOf(name), note)
		}
		if err != nil {
			return fmt.Errorf("note what program %s is made of: %w", name, err)
		}
	}
	return nil
}

func keyOf(name string) (key programName) {
	copy(key[:], name)
	return key
}
