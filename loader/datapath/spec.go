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
	hertz, err := Hertz()
	if err != nil {
		return nil, err
	}
	sets := tableSets(o.MaxEntries)
	for table, name := range tableNames {
		spec.Maps[name].MaxEntries = sets[table]
		if tags := spec.Maps[bpf.TagsMap(name)]; tags != nil { // of those that hold flows
			tags.MaxEntries = sets[table]
		}
	}
	forgetTypes(spec)
	asked := askedSets(o.MaxEntries)
	spec.Maps[bpf.DatapathMapAsked].MaxEntries = asked
	return spec, errors.Join(
		spec.Variables[bpf.DatapathVarHertz].Set(hertz),
		bpf.SetFeatures(spec, o.Features),
		spec.Variables[bpf.DatapathVarDigestSeed].Set(o.Seeds),
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
