// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"

	"github.com/cilium/ebpf"

	"replypath/bpf"
	"replypath/loader/attach"
	"replypath/loader/pins"
	"replypath/loader/source"
)

// Datapath is a loaded set of programs with their maps.
type Datapath struct {
	bpf.Maps
	opts     Options
	dir      *pins.Dir
	maps     *mapSet // those that are pinned
	programs *ProgramSet
	notebook *notebook
	pinned   bool
	filled   *Clock // when Fill began, nil once AddMissed is done
}

// Load opens the pinned maps of the directory, and takes the programs over that are pinned with them, or loads others.
// A map of another size or layout is going to be replaced, which is logged. Nothing that is pinned changes before Pin.
func Load(dir *pins.Dir, opts Options) (*Datapath, error) {
	d := &Datapath{
		dir: dir, opts: opts,
		maps:     newMapSet(dir, opts),
		programs: &ProgramSet{make(map[string]*ebpf.Program)},
	}
	d.notebook = &notebook{opts: opts, maps: d.maps, add: d.add}
	if err := d.load(); err != nil {
		return nil, errors.Join(err, d.Close())
	}
	return d, nil
}

func (d *Datapath) load() (err error) {
	n := d.notebook
	if n.earlier, err = openPrograms(d.dir.Path(MapsDir, programsDir)); err != nil {
		return err
	}
	n.noted = readNotes(d.dir.Path(MapsDir))
	if n.notes, err = ebpf.NewMap(&notesSpec); err != nil {
		return fmt.Errorf("create the map of what programs are made of: %w", err)
	}
	shapes := d.opts.shapes()
	if err := d.maps.open(shapes); err != nil {
		return err
	}
	taken, err := n.takeOver(0, slices.Concat(forEgress, forAll)...)
	if err == nil && !taken {
		err = InLittleMemory(d.make)
	}
	if err != nil {
		return err
	}
	if err := d.Use(shapes, d.maps.all); err != nil {
		return fmt.Errorf("open maps: %w", err)
	}
	if err := d.maps.check(&d.Maps); err != nil {
		return fmt.Errorf("after the programs were loaded: %w", err)
	}
	if d.maps.fresh[bpf.Control] && !d.opts.Apart {
		if err := d.keepMode(); err != nil {
			return err
		}
	}
	if !d.maps.fresh[bpf.DatapathMapTails] {
		return nil
	}
	return d.maps.enterTails(d.programs)
}

// make makes the maps that could not be opened, and loads the programs that every host has.
func (d *Datapath) make() error {
	spec, err := d.opts.spec()
	if err != nil {
		return err
	}
	if err := WhileGCPaused(func() error { return d.maps.makeFresh(spec.Maps) }); err != nil {
		return err
	}
	return d.notebook.load(0, func() (map[string]*ebpf.Program, error) { return d.maps.loadBoth(spec, forEgress, forAll) })
}

// loadLater loads programs that few hosts need, unless they can be taken over. Some work for the network namespace with
// this cookie.
func (d *Datapath) loadLater(
	namespace uint64, load func(spec *ebpf.CollectionSpec, names ...string) (map[string]*ebpf.Program, error), names ...string,
) error {
	if taken, err := d.notebook.takeOver(namespace, names...); taken || err != nil {
		return err
	}
	return InLittleMemory(func() error {
		spec, err := d.opts.spec()
		if err != nil {
			return err
		}
		return d.notebook.load(namespace, func() (map[string]*ebpf.Program, error) { return load(spec, names...) })
	})
}

// HasNewTables tells whether the flow tables are others than the earlier datapath's, whose
// attached programs do not write to them.
func (d *Datapath) HasNewTables() bool {
	return d.maps.fresh[bpf.DatapathMapCells]
}

// Earlier returns the programs that were attached when this datapath was loaded.
func (d *Datapath) Earlier() *ProgramSet { return d.notebook.earlier }

// Clock reads the clock of a loaded datapath.
func (d *Datapath) Clock() (Clock, error) { return runClock(d.programs.program(clockName)) }

// Programs returns what is attached to an interface with or without an
// Ethernet header, which may be one that only catches replies.
func (d *Datapath) Programs(hasHeader, catches bool) (attach.Programs, error) {
	programs, loaded := d.programs.Programs(hasHeader, catches)
	if loaded {
		return programs, nil
	}
	var errs []error
	if programs.Egress == nil {
		errs = append(errs, d.loadLater(0, d.maps.loadServing, egress3Name))
	}
	if !catches && programs.Ingress == nil {
		errs = append(errs, d.loadLater(0, d.maps.loadServing, ingress3Name))
	}
	programs, _ = d.programs.Programs(hasHeader, catches)
	return programs, errors.Join(errs...)
}

// FallbackPrograms are attached to the device of the fallback route.
func (d *Datapath) FallbackPrograms() attach.Programs {
	programs, _ := d.programs.FallbackPrograms()
	return programs
}

// HeldPrograms are attached beside the others where a silent gateway is held.
func (d *Datapath) HeldPrograms() attach.Programs {
	return attach.Programs{Last: d.programs.program(heldName)}
}

// Source returns the programs that repair the source address of what the sockets
// of the network namespace with this cookie send. They are there from when they are
// first asked for, and closed with the datapath.
func (d *Datapath) Source(namespace uint64) (*source.Programs, error) {
	programs, loaded := d.programs.Source()
	if loaded {
		return programs, nil
	}
	load := func(spec *ebpf.CollectionSpec, names ...string) (map[string]*ebpf.Program, error) {
		if err := spec.Variables[bpf.DatapathVarOwnNamespace].Set(namespace); err != nil {
			return nil, err
		}
		return d.maps.loadPrograms(spec, ebpf.CollectionOptions{}, names)
	}
	err := d.loadLater(namespace, load, send4Name, send6Name)
	programs, _ = d.programs.Source()
	return programs, err
}

// Close closes what is open; what is pinned and attached stays.
func (d *Datapath) Close() error {
	if d == nil {
		return nil
	}
	d.maps.close()
	return errors.Join(d.notebook.earlier.Close(), d.programs.Close(), d.Maps.Close(), d.notebook.notes.Close())
}

// add adds programs, and pins them where the others are pinned already.
func (d *Datapath) add(programs map[string]*ebpf.Program) error {
	maps.Copy(d.programs.byName, programs)
	if !d.pinned {
		return nil // Pin does
	}
	var errs []error
	for name, program := range programs {
		path := d.dir.Path(MapsDir, programsDir, name)
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, fmt.Errorf("unpin program %s: %w", name, err))
			continue
		}
		errs = append(errs, pin(program, "program "+name, path))
	}
	return errors.Join(errs...)
}
