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

	// The flow tables.
	HalfOpen, Established, Connectionless *bpf.FlowTable
	Outbound                              *bpf.Notes
	Records                               *bpf.Records
	Begun                                 *View // what began last by addresses: the map `recent`
	// Places are those of all buckets.
	Places *View
	cells  *ebpf.Memory

	Scratch *ebpf.Map // the programs' working memory
	scratch *ebpf.Memory

	hertz     uint32
	meanwhile *ebpf.Map      // nil unless asked for: see Datapath.Meanwhile
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
	// Flows is how many flows half of the table is for; 0 stands for 4096: so many that no bucket of a test fills up.
	Flows uint32
	// Seeds are the digests'; nil stands for random ones.
	Seeds *bpf.Seeds
	// Namespace is the cookie of the network namespace whose sockets get a source; 0: of none.
	Namespace uint64
	// Meanwhile has another CPU write flow tables meanwhile: see Datapath.Meanwhile.
	Meanwhile bool
	// CountCost has the programs count what they do: see Cost.
	CountCost bool
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
	if err := errors.Join(bpf.SetFeatures(spec, d.Features), d.setConstants(spec, opts), opts.size(spec)); err != nil {
		return nil, err
	}
	if opts.Change != nil {
		opts.Change(spec.Maps)
	}
	if opts.Meanwhile {
		if err := addMeanwhile(spec); err != nil {
			return nil, err
		}
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
	}
	for name, value := range constants {
		if err := spec.Variables[name].Set(value); err != nil {
			return fmt.Errorf("set %s: %w", name, err)
		}
	}
	return nil
}

// size sizes the maps that fill up.
func (o Options) size(spec *ebpf.CollectionSpec) error {
	maps := spec.Maps
	flows := o.Flows
	if flows == 0 {
		flows = 4096
	}
	maps[bpf.DatapathMapLeads].MaxEntries = 1024 // it is emptied often
	bpf.SizePairSlots(maps)
	return bpf.Size(spec, bpf.Buckets(flows))
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
	d.Scratch = collection.DetachMap(bpf.Scratch)
	if d.scratch, err = d.Scratch.Memory(); err != nil {
		return fmt.Errorf("map the scratch memory: %w", err)
	}
	tables := bpf.FlowTables(&d.DatapathMaps)
	d.Outbound = &bpf.Notes{Table: bpf.TableOf(&d.DatapathMaps)}
	d.Records = &bpf.Records{Table: bpf.TableOf(&d.DatapathMaps)}
	d.HalfOpen, d.Established, d.Connectionless = &tables[bpf.DatapathTableTABLE_HALF_OPEN],
		&tables[bpf.DatapathTableTABLE_ESTABLISHED], &tables[bpf.DatapathTableTABLE_CONNECTIONLESS]
	d.meanwhile, d.blockRuns = collection.DetachMap(meanwhileMap), collection.DetachMap(blocksMap)
	if err := errors.Join(put(d.Tails, bpf.DatapathTailTAIL_SEND, d.ReplypathSend), put(d.Tails, bpf.DatapathTailTAIL_NOBODY, d.ReplypathFallback)); err != nil {
		return err
	}
	if d.Places, err = newView(d.Buckets); err != nil {
		return err
	}
	if d.Begun, err = newView(d.Recent); err != nil {
		return err
	}
	if d.cells, err = d.Cells.Memory(); err != nil {
		return fmt.Errorf("map the cells: %w", err)
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
	errs := []error{d.DatapathObjects.Close(), d.Scratch.Close()}
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
