package datapath

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"

	"github.com/cilium/ebpf"

	"replypath/bpf"
	"replypath/loader/attach"
	"replypath/loader/pins"
)

// Options say how the datapath is loaded.
type Options struct {
	MaxEntries uint32       // of the largest flow table
	Seeds      bpf.Seeds    // those that the pinned tables were filled with, or new ones
	Features   bpf.Features // what the kernel has
	// ForeignLayout: the pinned maps were made by a version that puts another
	// meaning into them, whatever their sizes. They are replaced.
	ForeignLayout bool
	Log           *slog.Logger
}

// programs are loaded for every host.
type programs struct {
	Ingress *ebpf.Program `ebpf:"replypath_ingress"`
	Egress  *ebpf.Program `ebpf:"replypath_egress"`
	Send    *ebpf.Program `ebpf:"replypath_send"`
	Clock   *ebpf.Program `ebpf:"replypath_clock"`
	Forget  *ebpf.Program `ebpf:"replypath_forget"`
}

// noHeaderPrograms are loaded once there is a device without Ethernet header:
// the verifier takes as long for them as for all others.
type noHeaderPrograms struct {
	Ingress *ebpf.Program `ebpf:"replypath_ingress_l3"`
	Egress  *ebpf.Program `ebpf:"replypath_egress_l3"`
}

// Datapath is a loaded set of programs with their maps.
type Datapath struct {
	bpf.DatapathMaps
	programs programs
	noHeader *noHeaderPrograms
	opts     Options
	dir      *pins.Dir
	all      map[string]*ebpf.Map // by name
	fresh    map[string]bool      // maps that are not pinned yet, by name
}

// Load loads the programs with the pinned maps of the directory. A flow table
// of another capacity is copied; a map of another layout is replaced, which is
// logged. Nothing that is pinned changes before Pin.
func Load(dir *pins.Dir, opts Options) (*Datapath, error) {
	d := &Datapath{dir: dir, opts: opts, all: make(map[string]*ebpf.Map), fresh: make(map[string]bool)}
	if err := d.load(); err != nil {
		return nil, errors.Join(err, d.Close())
	}
	return d, nil
}

func (d *Datapath) load() error {
	spec, err := d.spec()
	if err != nil {
		return err
	}
	for name, mapSpec := range spec.Maps {
		if isInternal(name) {
			continue
		}
		if err := d.openMap(name, mapSpec); err != nil {
			return err
		}
	}
	if err := d.separateSender(spec); err != nil {
		return err
	}
	options := &ebpf.CollectionOptions{MapReplacements: d.all}
	if err := spec.LoadAndAssign(&d.DatapathMaps, options); err != nil {
		return fmt.Errorf("open maps: %w", err)
	}
	return d.loadPrograms(&d.programs)
}

// separateSender replaces the map of the program that ends a move where the map is
// replaced by which that program is told of the move: the egress programs of an
// earlier process write to theirs until they are replaced, and must not call one
// that reads from ours.
func (d *Datapath) separateSender(spec *ebpf.CollectionSpec) error {
	const name = bpf.DatapathMapSender
	if !d.fresh[bpf.DatapathMapHandovers] || d.fresh[name] {
		return nil
	}
	if err := d.all[name].Close(); err != nil {
		return fmt.Errorf("close map %s: %w", name, err)
	}
	return d.newMap(name, spec.Maps[name])
}

// spec returns the datapath with its constants and sizes filled in.
func (d *Datapath) spec() (*ebpf.CollectionSpec, error) {
	spec, err := bpf.LoadDatapath()
	if err != nil {
		return nil, err
	}
	hertz, err := Hertz()
	if err != nil {
		return nil, err
	}
	sets := tableSets(d.opts.MaxEntries)
	for table, name := range tableNames {
		spec.Maps[name].MaxEntries = sets[table]
	}
	asked := askedSets(d.opts.MaxEntries)
	spec.Maps[bpf.DatapathMapAsked].MaxEntries = asked
	return spec, errors.Join(
		spec.Variables[bpf.DatapathVarHertz].Set(hertz),
		bpf.SetFeatures(spec, d.opts.Features),
		spec.Variables[bpf.DatapathVarDigestSeed].Set(d.opts.Seeds),
		spec.Variables[bpf.DatapathVarSets].Set(sets),
		spec.Variables[bpf.DatapathVarAskedSets].Set(asked),
	)
}

// loadPrograms fills in a struct of programs, which share the maps. set fills in
// the constants that only these need.
func (d *Datapath) loadPrograms(to any, set ...func(*ebpf.CollectionSpec) error) error {
	spec, err := d.spec()
	if err != nil {
		return err
	}
	for _, set := range set {
		if err := set(spec); err != nil {
			return err
		}
	}
	if err := spec.LoadAndAssign(to, &ebpf.CollectionOptions{MapReplacements: d.all}); err != nil {
		return fmt.Errorf("load programs: %w", err)
	}
	return nil
}

// openMap opens the pinned map of this name, or makes one that takes its place.
func (d *Datapath) openMap(name string, spec *ebpf.MapSpec) error {
	pinned, err := ebpf.LoadPinnedMap(d.mapPath(name), nil)
	if errors.Is(err, fs.ErrNotExist) {
		return d.newMap(name, spec)
	}
	if err != nil {
		return fmt.Errorf("open pinned map %s: %w", name, err)
	}
	reason := compatible(spec, pinned)
	if d.opts.ForeignLayout {
		reason = errLayout
	}
	if reason == nil {
		d.all[name] = pinned
		return nil
	}
	defer pinned.Close()
	return d.replaceMap(name, spec, pinned, reason)
}

var errLayout = errors.New("it was made by another version")

func (d *Datapath) newMap(name string, spec *ebpf.MapSpec) error {
	m, err := ebpf.NewMap(spec)
	if err != nil {
		return fmt.Errorf("create map %s of %d entries: %w", name, spec.MaxEntries, err)
	}
	d.all[name] = m
	d.fresh[name] = true
	return nil
}

func (d *Datapath) replaceMap(name string, spec *ebpf.MapSpec, old *ebpf.Map, reason error) error {
	if err := d.newMap(name, spec); err != nil {
		return err
	}
	var err error
	switch {
	case !errors.Is(reason, errSize):
		d.opts.Log.Warn("a map of another version is replaced, its entries are lost", "map", name, "reason", reason)
	case name == bpf.DatapathMapOutbound:
		err = copyOutbound(d.all[name], old)
	case name == bpf.DatapathMapAsked:
		err = copyAsked(d.all[name], old)
	case isFlowTable(name):
		d.opts.Log.Info("a flow table changes its size", "table", name,
			"from", Capacity(old), "to", Capacity(d.all[name]))
		err = copyFlows(d.all[name], old)
	default:
		d.opts.Log.Warn("a map of another size is replaced, its entries are lost", "map", name)
	}
	if err != nil {
		return fmt.Errorf("resize %s: %w", name, err)
	}
	return nil
}

// HasNewTables tells whether a flow table is not pinned yet: it is empty, or the copy
// of one that the programs which are attached go on writing to.
func (d *Datapath) HasNewTables() bool {
	for name := range d.fresh {
		if isFlowTable(name) {
			return true
		}
	}
	return false
}

func isFlowTable(name string) bool {
	for _, table := range tableNames {
		if table == name {
			return true
		}
	}
	return false
}

func (d *Datapath) mapPath(name string) string { return d.dir.Path(MapsDir, name) }

// Pin puts the maps and what reading commands run in the place of earlier ones.
func (d *Datapath) Pin() error {
	if err := os.MkdirAll(d.dir.Path(MapsDir), 0o700); err != nil {
		return fmt.Errorf("create directory for maps: %w", err)
	}
	for name := range d.fresh {
		if err := repin(d.all[name], d.mapPath(name)); err != nil {
			return fmt.Errorf("pin map %s: %w", name, err)
		}
		delete(d.fresh, name)
	}
	// The map forgets the program when nobody has it open and nothing is pinned.
	if err := d.Sender.Put(uint32(0), d.programs.Send); err != nil {
		return fmt.Errorf("enter the program that sends: %w", err)
	}
	if err := repin(d.programs.Clock, d.dir.Path(clockName)); err != nil {
		return fmt.Errorf("pin clock: %w", err)
	}
	if err := repin(d.programs.Forget, d.dir.Path(forgetName)); err != nil {
		return fmt.Errorf("pin forget: %w", err)
	}
	return nil
}

// Restore pins this datapath once more, after another could not take its place.
func (d *Datapath) Restore() error {
	for name := range d.all {
		d.fresh[name] = true
	}
	return d.Pin()
}

type pinner interface {
	Pin(path string) error
	Unpin() error
}

// repin pins at a path that may be taken. A rename would leave no gap, but
// bpffs does not rename over another object.
func repin(object pinner, path string) error {
	// It may take itself for pinned there, where another is by now.
	if err := object.Unpin(); err != nil {
		return err
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return object.Pin(path)
}

// Programs returns what is attached to an interface with or without an
// Ethernet header.
func (d *Datapath) Programs(hasHeader bool) (attach.Programs, error) {
	if hasHeader {
		return attach.Programs{Ingress: d.programs.Ingress, Egress: d.programs.Egress}, nil
	}
	if d.noHeader == nil {
		loaded := new(noHeaderPrograms)
		if err := d.loadPrograms(loaded); err != nil {
			return attach.Programs{}, err
		}
		d.noHeader = loaded
	}
	return attach.Programs{Ingress: d.noHeader.Ingress, Egress: d.noHeader.Egress}, nil
}

// Close closes what is open; what is pinned and attached stays.
func (d *Datapath) Close() error {
	if d == nil {
		return nil
	}
	closeAll(d.all)
	errs := []error{
		d.programs.Ingress.Close(), d.programs.Egress.Close(),
		d.programs.Send.Close(), d.programs.Clock.Close(), d.programs.Forget.Close(),
		d.DatapathMaps.Close(),
	}
	if d.noHeader != nil {
		errs = append(errs, d.noHeader.Ingress.Close(), d.noHeader.Egress.Close())
	}
	return errors.Join(errs...)
}
