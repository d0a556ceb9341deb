package datapath

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/features"
	"golang.org/x/sync/errgroup"

	"replypath/bpf"
	"replypath/loader/attach"
	"replypath/loader/pins"
	"replypath/loader/source"
)

// Options say how the datapath is loaded.
type Options struct {
	MaxEntries uint32       // of the largest flow table
	Seeds      bpf.Seeds    // those that the pinned tables were filled with, or new ones
	Features   bpf.Features // what the kernel has
	// Apart: the maps of an earlier datapath stay as they are; only the counters are
	// shared with it.
	Apart bool
	Log   *slog.Logger
}

// programs are loaded for every host. The verifier takes half of the time from start to
// ready for Ingress and half for Egress: it looks at both at once.
type programs struct {
	egressProgram
	otherPrograms
}

type egressProgram struct {
	Egress *ebpf.Program `ebpf:"replypath_egress"`
}

type otherPrograms struct {
	Ingress *ebpf.Program `ebpf:"replypath_ingress"`
	Send    *ebpf.Program `ebpf:"replypath_send"`
	Clock   *ebpf.Program `ebpf:"replypath_clock"`
	Forget  *ebpf.Program `ebpf:"replypath_forget"`
	Add     *ebpf.Program `ebpf:"replypath_add"`
	// Behind Egress: at the device of the fallback route, and where a silent
	// gateway is held. Egress calls Fallback for what is for nobody.
	Fallback *ebpf.Program `ebpf:"replypath_fallback"`
	Held     *ebpf.Program `ebpf:"replypath_held"`
	// Of the fallback routes.
	Gate *ebpf.Program `ebpf:"replypath_gate"`
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
	source   *source.Programs
	opts     Options
	dir      *pins.Dir
	all      map[string]*ebpf.Map // by name
	ids      identities           // of all
	fresh    map[string]bool      // maps that an earlier datapath does not share, by name
	replaced map[string]*ebpf.Map // those of the earlier datapath that are copied, by name
	earlier  *Attached
	pinned   bool
	filled   *Clock // when Fill began, nil once AddMissed is done
	foreign  error  // why the earlier maps mean something else in this version
}

// Load loads the programs with the pinned maps of the directory. A map of another
// size or layout is going to be replaced, which is logged. Nothing that is pinned
// changes before Pin.
func Load(dir *pins.Dir, opts Options) (*Datapath, error) {
	d := &Datapath{
		dir: dir, opts: opts,
		all: make(map[string]*ebpf.Map), fresh: make(map[string]bool), replaced: make(map[string]*ebpf.Map),
		ids: make(identities),
	}
	if err := inLittleMemory(d.load); err != nil {
		return nil, errors.Join(err, d.Close())
	}
	return d, nil
}

func (d *Datapath) load() error {
	if err := d.lookAtEarlier(); err != nil {
		return err
	}
	spec, err := d.spec()
	if err != nil {
		return err
	}
	if err := whileGCPaused(func() error { return d.openAll(spec.Maps) }); err != nil {
		return err
	}
	if err := d.separateSender(spec); err != nil {
		return err
	}
	options := &ebpf.CollectionOptions{MapReplacements: d.all}
	if err := spec.LoadAndAssign(&d.DatapathMaps, options); err != nil {
		return fmt.Errorf("open maps: %w", err)
	}
	if err := d.loadBoth(spec); err != nil {
		return err
	}
	if err := d.checkMaps(); err != nil {
		return fmt.Errorf("after the programs were loaded: %w", err)
	}
	if d.fresh[bpf.DatapathMapNobody] {
		err = d.enterNobody(d.programs.Fallback)
	}
	if d.fresh[bpf.DatapathMapSender] {
		err = errors.Join(err, d.enterSender(d.programs.Send))
	}
	return err
}

// loadBoth has the verifier look at both halves of the programs at once. To read the
// object a second time would take more memory than all that the daemon does later.
func (d *Datapath) loadBoth(spec *ebpf.CollectionSpec) error {
	var both errgroup.Group
	another := spec.Copy()
	both.Go(func() error { return d.loadServing(&d.programs.egressProgram, another) })
	both.Go(func() error { return d.loadServing(&d.programs.otherPrograms, spec) })
	return both.Wait()
}

// lookAtEarlier looks at what is pinned already.
func (d *Datapath) lookAtEarlier() (err error) {
	if d.earlier, err = openAttached(d.dir.Path(MapsDir, programsDir)); err != nil {
		return err
	}
	if !d.dir.Has(MapsDir) {
		return nil
	}
	err = checkLayout(d.dir.Path(MapsDir))
	if errors.Is(err, errLayout) {
		d.foreign = err
		d.opts.Log.Warn("the maps of another version are replaced, but for the counters: flows are recorded anew", "reason", err)
		return nil
	}
	return err
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
		if tags := spec.Maps[bpf.TagsMap(name)]; tags != nil { // of those that hold flows
			tags.MaxEntries = sets[table]
		}
	}
	forgetTypes(spec)
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

// forgetTypes takes the types from the maps that are made while programs are loaded, and that
// nobody sees: whileGCPaused() says what they could do.
func forgetTypes(spec *ebpf.CollectionSpec) {
	for name, m := range spec.Maps {
		if bpf.IsInternal(name) {
			m.Key, m.Value = nil, nil
		}
	}
}

// loadServing loads programs that interfaces have, which read the kernel's memory. Its modules are not asked for
// their types: a host has a hundred, and the programs read nothing of theirs.
func (d *Datapath) loadServing(to any, spec *ebpf.CollectionSpec) error {
	types := bpf.KernelTypes()
	kernel, err := types.Kernel()
	if err != nil {
		return fmt.Errorf("read the kernel's types: %w", blameKernel(err))
	}
	return d.loadPrograms(to, spec, &ebpf.CollectionOptions{
		Programs: ebpf.ProgramOptions{KernelTypes: kernel},
		Cache:    types,
	})
}

// loadPrograms fills in a struct of programs, which share the maps.
func (d *Datapath) loadPrograms(to any, spec *ebpf.CollectionSpec, options *ebpf.CollectionOptions) error {
	options.MapReplacements = d.all
	if err := spec.LoadAndAssign(to, options); err != nil {
		return fmt.Errorf("load programs: %w", blameKernel(err))
	}
	return nil
}

// openAll opens or makes the maps that are pinned.
func (d *Datapath) openAll(maps map[string]*ebpf.MapSpec) error {
	for name, spec := range maps {
		if bpf.IsInternal(name) {
			continue
		}
		if err := d.openMap(name, spec); err != nil {
			return err
		}
	}
	return nil
}

// openMap opens the pinned map of this name, or makes one that takes its place.
func (d *Datapath) openMap(name string, spec *ebpf.MapSpec) error {
	pinned, err := ebpf.LoadPinnedMap(d.dir.Path(MapsDir, name), nil)
	if errors.Is(err, fs.ErrNotExist) {
		return d.newMap(name, spec)
	}
	if err != nil {
		return fmt.Errorf("open pinned map %s: %w", name, err)
	}
	reason := d.reasonToReplace(name, spec, pinned)
	if reason == nil {
		d.all[name] = pinned
		return d.ids.note(name, pinned)
	}
	d.logReplaced(name, pinned, reason)
	if isCopied(name) && (errors.Is(reason, errSize) || errors.Is(reason, errApart)) {
		d.replaced[name] = pinned
	} else if err := bpf.Close(pinned); err != nil {
		return fmt.Errorf("close map %s: %w", name, err)
	}
	return d.newMap(name, spec)
}

var errApart = errors.New("it stays as it is")

// reasonToReplace returns nil for a map that is shared with an earlier datapath.
// Counters have a meaning that no version changes, and so has the mode that was set by
// hand.
func (d *Datapath) reasonToReplace(name string, spec *ebpf.MapSpec, pinned *ebpf.Map) error {
	if d.foreign != nil && !isCounter(name) && name != bpf.DatapathMapModeByHand {
		return d.foreign
	}
	err := compatible(spec, pinned)
	if d.opts.Apart && !isCounter(name) && (err == nil || errors.Is(err, errSize)) {
		return errApart
	}
	return err
}

func (d *Datapath) logReplaced(name string, pinned *ebpf.Map, reason error) {
	switch {
	case errors.Is(reason, errApart), errors.Is(reason, errLayout): // said for all
	case errors.Is(reason, errSize) && isTags(name): // said for its table
	case errors.Is(reason, errSize) && isFlowTable(name):
		d.opts.Log.Info("a flow table changes its size", "table", name,
			"from", Capacity(pinned), "to", capacityFor(name, d.opts.MaxEntries))
	case errors.Is(reason, errSize) && isCopied(name):
		d.opts.Log.Info("a map changes its size", "map", name)
	default:
		d.opts.Log.Warn("a map of another version is replaced, its entries are lost", "map", name, "reason", reason)
	}
}

func (d *Datapath) newMap(name string, spec *ebpf.MapSpec) error {
	m, err := ebpf.NewMap(spec)
	if err != nil {
		return fmt.Errorf("create map %s of %d entries: %w", name, spec.MaxEntries, explainMap(err, features.HaveMapType(spec.Type)))
	}
	d.all[name] = m
	d.fresh[name] = true
	return d.ids.note(name, m)
}

// explainMap explains why a map could not be made. To a type that it does not know the
// kernel says no more than that the argument is invalid, so that what it said when it
// was asked for the type goes before.
func explainMap(err, probed error) error {
	if errors.Is(probed, ebpf.ErrNotSupported) {
		err = probed
	}
	return blameKernel(err)
}

// blameKernel explains an error that says that the kernel lacks something, which it
// names. Others stay as they are.
func blameKernel(err error) error {
	if !errors.Is(err, ebpf.ErrNotSupported) {
		return err
	}
	return fmt.Errorf("%w: %w: use a kernel of 5.10 or later that is built as distributions do", attach.ErrUnsupported, err)
}

// HasNewTables tells whether a flow table is another one than the earlier
// datapath's, whose attached programs do not write to it.
func (d *Datapath) HasNewTables() bool {
	for name := range d.fresh {
		if isFlowTable(name) {
			return true
		}
	}
	return false
}

// HasNewCounters tells whether the counters of interface pairs begin at 0.
func (d *Datapath) HasNewCounters() bool { return d.fresh[bpf.DatapathMapPairSlots] }

// Earlier returns the programs that were attached when this datapath was loaded.
func (d *Datapath) Earlier() *Attached { return d.earlier }

// Programs returns what is attached to an interface with or without an
// Ethernet header.
func (d *Datapath) Programs(hasHeader bool) (attach.Programs, error) {
	if hasHeader {
		return attach.Programs{Ingress: d.programs.Ingress, Egress: d.programs.Egress}, nil
	}
	if d.noHeader == nil {
		if err := inLittleMemory(d.loadNoHeader); err != nil {
			return attach.Programs{}, err
		}
	}
	return attach.Programs{Ingress: d.noHeader.Ingress, Egress: d.noHeader.Egress}, nil
}

func (d *Datapath) loadNoHeader() error {
	spec, err := d.spec()
	if err != nil {
		return err
	}
	loaded := new(noHeaderPrograms)
	if err := d.loadServing(loaded, spec); err != nil {
		return err
	}
	d.noHeader = loaded
	return errors.Join(d.keep(ingress3Name, loaded.Ingress), d.keep(egress3Name, loaded.Egress))
}

// FallbackPrograms are attached to the device of the fallback route.
func (d *Datapath) FallbackPrograms() attach.Programs {
	return attach.Programs{Egress: d.programs.Egress, Last: d.programs.Fallback}
}

// Gate is asked by the fallback routes. A datapath that is nil has none.
func (d *Datapath) Gate() *ebpf.Program {
	if d == nil {
		return nil
	}
	return d.programs.Gate
}

// HeldPrograms are attached beside the others where a silent gateway is held.
func (d *Datapath) HeldPrograms() attach.Programs { return attach.Programs{Last: d.programs.Held} }

// Close closes what is open; what is pinned and attached stays.
func (d *Datapath) Close() error {
	if d == nil {
		return nil
	}
	closeAll(d.all)
	closeAll(d.replaced)
	errs := []error{
		d.earlier.Close(), d.source.Close(),
		d.programs.Ingress.Close(), d.programs.Egress.Close(),
		d.programs.Send.Close(), d.programs.Clock.Close(), d.programs.Forget.Close(), d.programs.Add.Close(),
		d.programs.Fallback.Close(), d.programs.Held.Close(), d.programs.Gate.Close(),
		d.DatapathMaps.Close(),
	}
	if d.noHeader != nil {
		errs = append(errs, d.noHeader.Ingress.Close(), d.noHeader.Egress.Close())
	}
	return errors.Join(errs...)
}
