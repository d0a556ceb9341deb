// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"log/slog"

	"github.com/cilium/ebpf"

	"replypath/bpf"
)

// Options say how the datapath is loaded.
type Options struct {
	MaxEntries uint32       // of the largest flow table
	Seeds      bpf.Seeds    // those that the pinned tables were filled with, or new ones
	Features   bpf.Features // what the kernel has
	// Apart: the maps of an earlier datapath stay as they are; only the counters are
	// shared with it.
	Apart bool
	// Object is what is loaded, with the maps of the product's own; nil: the product's own.
	Object func() (*ebpf.CollectionSpec, error)
	Log    *slog.Logger
}

// spec returns the datapath with its constants and sizes filled in.
func (o *Options) spec() (*ebpf.CollectionSpec, error) {
	object := bpf.LoadDatapath
	if o.Object != nil {
		object = o.Object
	}
	spec, err := object()
	if err != nil {
		return nil, err
	}
	hertz, err := Hertz()
	if err != nil {
		return nil, err
	}
	sizes := o.setSizes(spec.Maps)
	forgetTypes(spec)
	return spec, errors.Join(
		spec.Variables[bpf.DatapathVarHertz].Set(hertz),
		bpf.SetFeatures(spec, o.Features),
		spec.Variables[bpf.DatapathVarDigestSeed].Set(o.Seeds),
		spec.Variables[bpf.DatapathVarSets].Set(setsOf(sizes)),
		spec.Variables[bpf.DatapathVarAskedSets].Set(sizes[bpf.DatapathMapAsked]),
	)
}

// shapes returns the maps that are pinned, without the types of their entries.
func (o *Options) shapes() map[string]*ebpf.MapSpec {
	shapes := bpf.Shapes()
	o.setSizes(shapes)
	return shapes
}

func (o *Options) setSizes(maps map[string]*ebpf.MapSpec) map[string]uint32 {
	sizes := sizes(o.MaxEntries)
	for name, sets := range sizes {
		maps[name].MaxEntries = sets
	}
	return sizes
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
