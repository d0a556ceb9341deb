// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"log/slog"
	"runtime"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"replypath/bpf"
)

// Options say how the datapath is loaded.
type Options struct {
	MaxEntries uint32       // of the largest flow table
	Seeds      bpf.Seeds    // those that the pinned tables were filled with, or new ones
	Features   bpf.Features // what the kernel has
	// Apart: the maps of an earlier datapath stay as they are; only the counters and what
	// handshakes taught are shared with it.
	Apart bool
	// Object is loaded, the product's own where it is nil.
	Object *Object
	Log    *slog.Logger
}

// Object is a set of programs with the maps of the product's own, for tests. Two of the same name are the same.
type Object struct {
	Name string
	Load func() (*ebpf.CollectionSpec, error)
}

// object returns what is loaded.
func (o *Options) object() *Object {
	if o.Object == nil {
		return &Object{Load: bpf.LoadDatapath}
	}
	return o.Object
}

// spec returns the datapath with its constants and sizes filled in.
func (o *Options) spec() (*ebpf.CollectionSpec, error) {
	spec, err := o.object().Load()
	if err != nil {
		return nil, err
	}
	c, err := o.constants()
	if err != nil {
		return nil, err
	}
	o.setSizes(spec.Maps)
	for _, name := range bpf.Shared {
		spec.Maps[name].Flags |= unix.BPF_F_MMAPABLE
	}
	forgetTypes(spec)
	buckets := spec.Maps[bpf.DatapathMapBuckets].MaxEntries
	return spec, errors.Join(c.Set(spec), spec.Variables[bpf.DatapathVarLastBucket].Set(buckets-1))
}

// Constants are what the programs are loaded with. Each belongs to their origin.
type Constants struct {
	Hertz    uint32
	Features bpf.Features
	Seeds    bpf.Seeds
}

func (o *Options) constants() (Constants, error) {
	hertz, err := Hertz()
	return Constants{Hertz: hertz, Features: o.Features, Seeds: o.Seeds}, err
}

// Set writes them into the programs, and what follows from the machine.
func (c *Constants) Set(spec *ebpf.CollectionSpec) error {
	return errors.Join(
		spec.Variables[bpf.DatapathVarHertz].Set(c.Hertz),
		bpf.SetFeatures(spec, c.Features),
		spec.Variables[bpf.DatapathVarDigestSeed].Set(c.Seeds),
		spec.Variables[bpf.DatapathVarOrdersStores].Set(runtime.GOARCH == "amd64"),
	)
}

// shapes returns the maps that are pinned, without the types of their entries.
func (o *Options) shapes() map[string]*ebpf.MapSpec {
	shapes := bpf.Shapes()
	o.setSizes(shapes)
	return shapes
}

func (o *Options) setSizes(maps map[string]*ebpf.MapSpec) {
	for _, m := range maps {
		if m.Type == ebpf.LRUHash {
			m.MaxEntries += bpf.Reserve()
		}
	}
	for name, entries := range sizes(o.MaxEntries) {
		maps[name].MaxEntries = entries
	}
	bpf.SizePairSlots(maps)
}

// forgetTypes takes the types from the maps that are made while programs are loaded, and that
// nobody sees: WhileGCPaused() says what they could do.
func forgetTypes(spec *ebpf.CollectionSpec) {
	for name, m := range spec.Maps {
		if bpf.IsInternal(name) {
			m.Key, m.Value = nil, nil
		}
	}
}
