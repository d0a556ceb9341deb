// SPDX-License-Identifier: Apache-2.0

// Package rig runs the datapath's programs by BPF_PROG_TEST_RUN: it makes a
// network namespace with real devices, loads the programs, fills their maps as
// the loader would, and builds the packets. Tests and benchmarks share it.
package rig

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"

	"replypath/bpf"
)

// Datapath is the loaded datapath with maps of its own.
type Datapath struct {
	bpf.DatapathObjects
	Seeds bpf.Seeds
	// Features are what the programs make use of.
	Features bpf.Features
	// Probes are the programs inside a wrapper, by name: see Probe. Nil unless
	// asked for.
	Probes map[string]*ebpf.Program

	HalfOpen, Established, Connectionless *Table
	// MarkView is the negative cache.
	MarkView *View[uint64]

	hertz     uint32
	meanwhile *ebpf.Map      // nil unless asked for
	blockRuns *ebpf.Map      // the same
	blocks    []block        // whose runs it counts
	undo      []func() error // what Clear takes out of arrays
}

// Options say how the datapath is loaded.
type Options struct {
	// OldKernel makes the programs do without what 5.10 lacks.
	OldKernel bool
	// Probes loads the wrapped programs as well.
	Probes bool
	// Sets is how many sets each flow table has; 0 stands for 1, which makes
	// the content of a table independent of the seeds.
	Sets uint32
	// Seeds are the digests'; nil stands for random ones.
	Seeds *bpf.Seeds
	// Namespace is the cookie of the network namespace whose sockets get a source; 0: of none.
	Namespace uint64
	// Meanwhile is a flow table that another CPU writes meanwhile, nil for none: see Datapath.Meanwhile.
	Meanwhile *bpf.DatapathTable
	// CountCost has the programs count what they do: see Cost.
	CountCost bool
	// SlowWay has the ingress program take its time over the way of a flow: see addPause.
	SlowWay bool
	// Mapped makes the flow tables readable and writable without system calls.
	Mapped bool
	// Only are the programs that are run: in place of the others there are some that refuse everything, as it takes the
	// kernel most of the time to look through them. Nil: all.
	Only []string
	// Change alters the maps before they are made.
	Change func(maps map[string]*ebpf.MapSpec)
}

// KnownSeeds have every flow be in the same place each time.
var KnownSeeds = bpf.Seeds{0xa4093822299f31d1, 0x9e3779b97f4a7c15, 0xbf58476d1ce4e5b9, 0x94d049bb133111eb, 0xd6e8feb86659fd93,
	0xa0761d6478bd642f, 0xe7037ed1a0b428db, 0x8ebc6af09c88c6e3, 0x589965cc75374cc3, 0x1d8e4e27c47d124f}

// Load loads the programs and empty maps.
func Load(opts Options) (*Datapath, error) {
	spec, err := bpf.LoadDatapath()
	if err != nil {
		return nil, err
	}
	d := new(Datapath)
	if d.hertz, err = kernelHertz(); err != nil {
		return nil, err
	}
	if d.Features, err = opts.features(); err != nil {
		return nil, err
	}
	if d.Seeds, err = opts.seeds(); err != nil {
		return nil, err
	}
	opts.Sets = max(opts.Sets, 1)
	if err := errors.Join(bpf.SetFeatures(spec, d.Features), d.setConstants(spec, opts)); err != nil {
		return nil, err
	}
	opts.size(spec.Maps)
	if opts.Change != nil {
		opts.Change(spec.Maps)
	}
	if err := opts.changePrograms(spec); err != nil {
		return nil, err
	}
	if opts.CountCost {
		if d.blocks, err = addCosts(spec); err != nil {
			return nil, err
		}
	}
	opts.replace(spec.Programs)
	return d, d.load(spec, &opts)
}

// features are the kernel's, without those that an old one has not.
func (o Options) features() (bpf.Features, error) {
	present, err := bpf.ProbeFeatures()
	if err != nil || !o.OldKernel {
		return present, err
	}
	present.CheckMTU, present.ProbeRead, present.KernelSKB, present.TailCalls = false, false, false, false
	return present, nil
}

func (o Options) seeds() (bpf.Seeds, error) {
	if o.Seeds != nil {
		return *o.Seeds, nil
	}
	return bpf.NewSeeds()
}

func (d *Datapath) setConstants(spec *ebpf.CollectionSpec, o Options) error {
	constants := map[string]any{
		bpf.DatapathVarHertz: d.hertz, bpf.DatapathVarDigestSeed: d.Seeds, bpf.DatapathVarOwnNamespace: o.Namespace,
		bpf.DatapathVarSets: [bpf.DatapathTableTABLE_END]uint32{o.Sets, o.Sets, o.Sets},
	}
	for name, value := range constants {
		if err := spec.Variables[name].Set(value); err != nil {
			return fmt.Errorf("set %s: %w", name, err)
		}
	}
	return nil
}

// size gives every table its sets, and has arrays readable and writable without system calls, as those of the flows are.
func (o Options) size(maps map[string]*ebpf.MapSpec) {
	tables := uint32(bpf.DatapathTableTABLE_END)
	maps[bpf.DatapathMapFlows].MaxEntries = tables * o.Sets
	maps[bpf.DatapathMapTags].MaxEntries = tables * o.Sets
	for _, name := range []string{bpf.DatapathMapOutbound, bpf.DatapathMapOriginated, bpf.DatapathMapQuestions,
		bpf.DatapathMapAsked, bpf.DatapathMapFragments} {
		maps[name].MaxEntries = 1024 // it is emptied often
	}
	maps[bpf.DatapathMapMarks].Flags |= unix.BPF_F_MMAPABLE
}

func (o Options) changePrograms(spec *ebpf.CollectionSpec) (err error) {
	if o.SlowWay {
		err = errors.Join(err, addPause(spec))
	}
	if o.Meanwhile != nil {
		err = errors.Join(err, addMeanwhile(spec, regions(o.Sets)[*o.Meanwhile].First))
	}
	return err
}

// replace has programs that are not run refuse everything.
func (o Options) replace(programs map[string]*ebpf.ProgramSpec) {
	for name, program := range programs {
		if o.Only == nil || slices.Contains(o.Only, name) {
			continue
		}
		var verdict int32
		if program.Type == ebpf.SchedCLS {
			verdict = 2 // TC_ACT_SHOT
		}
		begin := asm.Mov.Imm(asm.R0, verdict)
		begin.Metadata = program.Instructions[0].Metadata // its name, by which a wrapper calls it
		program.Instructions = asm.Instructions{begin, asm.Return()}
	}
}

func (d *Datapath) load(spec *ebpf.CollectionSpec, opts *Options) error {
	if opts.Probes {
		addProbes(spec.Programs)
	}
	collection, err := ebpf.NewCollection(spec)
	if err != nil {
		return fmt.Errorf("load datapath: %w", err)
	}
	defer collection.Close()
	if err := collection.Assign(&d.DatapathObjects); err != nil {
		return fmt.Errorf("assign datapath: %w", err)
	}
	d.setTables(opts.Sets)
	d.meanwhile, d.blockRuns = collection.DetachMap(meanwhileMap), collection.DetachMap(blocksMap)
	if err := errors.Join(put(d.Tails, bpf.DatapathTailTAIL_SEND, d.ReplypathSend), put(d.Tails, bpf.DatapathTailTAIL_NOBODY, d.ReplypathFallback)); err != nil {
		return err
	}
	if d.MarkView, err = newView[uint64](d.DatapathMaps.Marks); err != nil {
		return err
	}
	if !opts.Probes {
		return nil
	}
	d.Probes = make(map[string]*ebpf.Program)
	for _, name := range probedPrograms {
		d.Probes[name] = collection.DetachProgram(probeName(name))
	}
	return nil
}

// kernelHertz is CONFIG_HZ: the coarse clock moves once a jiffy.
func kernelHertz() (uint32, error) {
	var tick unix.Timespec
	if err := unix.ClockGetres(unix.CLOCK_MONOTONIC_COARSE, &tick); err != nil {
		return 0, fmt.Errorf("read the coarse clock's resolution: %w", err)
	}
	return uint32(time.Second.Nanoseconds() / tick.Nano()), nil
}

// Close unloads the programs and forgets the maps.
func (d *Datapath) Close() error {
	errs := []error{d.DatapathObjects.Close()}
	for _, probe := range d.Probes {
		errs = append(errs, probe.Close())
	}
	if d.meanwhile != nil {
		errs = append(errs, d.meanwhile.Close())
	}
	return errors.Join(errs...)
}

// Now is the present time in the entries' ticks.
func (d *Datapath) Now() (uint32, error) {
	return d.ReplypathClock.Run(&ebpf.RunOptions{Data: make([]byte, 14)})
}

// Seconds is a time span in the entries' ticks.
func (d *Datapath) Seconds(count uint32) uint32 { return count * d.hertz / 16 }
