// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/features"
	"golang.org/x/sync/errgroup"

	"replypath/bpf"
	"replypath/loader/attach"
	"replypath/loader/pins"
)

// mapSet are the maps of a datapath that are pinned, by name: those of an earlier one where they fit, and others that
// take their place.
type mapSet struct {
	dir      *pins.Dir
	opts     Options
	all      map[string]*ebpf.Map
	ids      identities           // of all
	fresh    map[string]bool      // those that an earlier datapath does not share
	replaced map[string]*ebpf.Map // those of the earlier datapath that are copied
	foreign  error                // why the earlier maps mean something else in this version
}

func newMapSet(dir *pins.Dir, opts Options) *mapSet {
	return &mapSet{
		dir: dir, opts: opts,
		all: make(map[string]*ebpf.Map), ids: make(identities),
		fresh: make(map[string]bool), replaced: make(map[string]*ebpf.Map),
	}
}

// open opens the maps that are pinned, as far as they fit these shapes. The others are fresh: makeFresh makes them.
func (s *mapSet) open(shapes map[string]*ebpf.MapSpec) error {
	if err := s.lookAtLayout(); err != nil {
		return err
	}
	for name, shape := range shapes {
		if err := s.openMap(name, shape); err != nil {
			return err
		}
	}
	if !slices.ContainsFunc(flowMaps, func(name string) bool { return s.fresh[name] }) {
		return nil
	}
	for _, name := range flowMaps {
		if pinned := s.all[name]; pinned != nil {
			delete(s.all, name)
			delete(s.ids, name)
			s.fresh[name] = true
			if err := bpf.Close(pinned); err != nil {
				return fmt.Errorf("close map %s: %w", name, err)
			}
		}
	}
	return nil
}

// makeFresh makes those that open could not open.
func (s *mapSet) makeFresh(specs map[string]*ebpf.MapSpec) error {
	for name := range s.fresh {
		if err := s.newMap(name, specs[name]); err != nil {
			return err
		}
	}
	return nil
}

// lookAtLayout looks at what is pinned already.
func (s *mapSet) lookAtLayout() error {
	if !s.dir.Has(MapsDir) {
		return nil
	}
	err := checkLayout(s.dir.Path(MapsDir))
	if errors.Is(err, errLayout) {
		s.foreign = err
		s.opts.Log.Warn("the maps of another version are replaced, except the counters, the ways learnt and the mode: flows are recorded again", "reason", err)
		return nil
	}
	return err
}

// openMap opens the pinned map of this name, unless another is to take its place.
func (s *mapSet) openMap(name string, spec *ebpf.MapSpec) error {
	pinned, err := openPinned(s.dir.Path(MapsDir), name)
	if errors.Is(err, fs.ErrNotExist) {
		s.fresh[name] = true
		return nil
	}
	if err != nil {
		return err
	}
	reason := s.reasonToReplace(name, spec, pinned)
	if reason == nil {
		s.all[name] = pinned
		return s.ids.note(name, pinned)
	}
	s.fresh[name] = true
	s.logReplaced(name, spec, pinned, reason)
	if isCopied(name) && (errors.Is(reason, errSize) || errors.Is(reason, errApart)) {
		s.replaced[name] = pinned
	} else if err := bpf.Close(pinned); err != nil {
		return fmt.Errorf("close map %s: %w", name, err)
	}
	return nil
}

// TableMaps are those of the table, among maps by name.
func TableMaps(by map[string]*ebpf.Map) *bpf.DatapathMaps {
	return &bpf.DatapathMaps{Buckets: by[bpf.DatapathMapBuckets], Cells: by[bpf.DatapathMapCells]}
}

// isCopied tells of maps whose entries are copied to one that takes their place.
func isCopied(name string) bool {
	return isSized(name) || name == bpf.DatapathMapEvents
}

// isShared tells of maps that are shared by all versions: the number of an event and the fields of a pair never get another
// meaning, nor does what handshakes taught.
func isShared(name string) bool {
	return name == bpf.DatapathMapEvents || name == bpf.DatapathMapPairs || name == bpf.DatapathMapPairSlots || name == bpf.DatapathMapWays
}

var errApart = errors.New("it stays as it is")

// reasonToReplace returns nil for a map that is shared with an earlier datapath.
func (s *mapSet) reasonToReplace(name string, spec *ebpf.MapSpec, pinned *ebpf.Map) error {
	if s.foreign != nil && !isShared(name) {
		return s.foreign
	}
	err := compatible(spec, pinned)
	if s.opts.Apart && !isShared(name) && (err == nil || errors.Is(err, errSize)) {
		return errApart
	}
	return err
}

func (s *mapSet) logReplaced(name string, spec *ebpf.MapSpec, pinned *ebpf.Map, reason error) {
	switch {
	case errors.Is(reason, errApart), errors.Is(reason, errLayout): // said for all
	case errors.Is(reason, errSize) && name == bpf.DatapathMapCells: // the largest table has half of them
		s.opts.Log.Info("the flow tables change their size", "from", pinned.MaxEntries()/2, "to", spec.MaxEntries/2)
	case errors.Is(reason, errSize) && isSized(name): // said for the cells
	case errors.Is(reason, errSize) && isCopied(name):
		s.opts.Log.Info("a map changes its size", "map", name)
	default:
		s.opts.Log.Warn("a map of another version is replaced, its entries are lost", "map", name, "reason", reason)
	}
}

func (s *mapSet) newMap(name string, spec *ebpf.MapSpec) error {
	m, err := ebpf.NewMap(spec)
	if err != nil {
		return fmt.Errorf("create map %s of %d entries: %w", name, spec.MaxEntries, explainMap(err, features.HaveMapType(spec.Type)))
	}
	s.all[name] = m
	return s.ids.note(name, m)
}

// loadBoth has the verifier look at both halves of the programs at once. To read the
// object a second time would take more memory than all that the daemon does later.
func (s *mapSet) loadBoth(spec *ebpf.CollectionSpec, half, other []string) (map[string]*ebpf.Program, error) {
	var (
		both          errgroup.Group
		first, second map[string]*ebpf.Program
	)
	another := spec.Copy()
	both.Go(func() (err error) { first, err = s.loadServing(another, half...); return err })
	both.Go(func() (err error) { second, err = s.loadServing(spec, other...); return err })
	err := both.Wait()
	all := make(map[string]*ebpf.Program)
	maps.Copy(all, first)
	maps.Copy(all, second)
	return all, err
}

// loadServing loads programs that interfaces have, which read the kernel's memory.
func (s *mapSet) loadServing(spec *ebpf.CollectionSpec, names ...string) (map[string]*ebpf.Program, error) {
	types := bpf.KernelTypes()
	kernel, err := types.Kernel()
	if err != nil {
		return nil, fmt.Errorf("read the kernel's types: %w", blameKernel(err))
	}
	return s.loadPrograms(spec, ebpf.CollectionOptions{Programs: ebpf.ProgramOptions{KernelTypes: kernel}, Cache: types}, names)
}

// loadPrograms loads programs, which share the maps.
func (s *mapSet) loadPrograms(spec *ebpf.CollectionSpec, options ebpf.CollectionOptions, names []string) (map[string]*ebpf.Program, error) {
	options.MapReplacements = s.all
	only := *spec
	only.Programs = make(map[string]*ebpf.ProgramSpec)
	for _, name := range names {
		only.Programs[programPrefix+name] = spec.Programs[programPrefix+name]
	}
	loaded, err := ebpf.NewCollectionWithOptions(&only, options)
	if err != nil {
		return nil, fmt.Errorf("load programs: %w", blameKernel(err))
	}
	defer closeAll(loaded.Maps)
	programs := make(map[string]*ebpf.Program)
	for _, name := range names {
		programs[name] = loaded.DetachProgram(programPrefix + name)
	}
	return programs, nil
}

// enterTails has the egress programs that use our maps call programs of a set, as far as it has them.
func (s *mapSet) enterTails(of *ProgramSet) error {
	var errs []error
	for tail, name := range map[bpf.DatapathTail]string{bpf.DatapathTailTAIL_SEND: sendName, bpf.DatapathTailTAIL_NOBODY: fallbackName} {
		program := of.program(name)
		if program == nil {
			continue
		}
		if err := s.all[bpf.DatapathMapTails].Put(tail, program); err != nil {
			errs = append(errs, fmt.Errorf("enter program %s for tail calls: %w", name, err))
		}
	}
	return errors.Join(errs...)
}

// check checks the maps that are read and written, and those that are going to be pinned.
func (s *mapSet) check(opened *bpf.Maps) error {
	var errs []error
	for _, named := range []map[string]*ebpf.Map{s.all, byTag(opened)} {
		for name, m := range named {
			errs = append(errs, s.ids.check(name, m))
		}
	}
	return errors.Join(errs...)
}

func (s *mapSet) close() {
	closeAll(s.all)
	closeAll(s.replaced)
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
