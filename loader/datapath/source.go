package datapath

import (
	"errors"

	"github.com/cilium/ebpf"

	"replypath/bpf"
	"replypath/loader/source"
)

// Source returns the programs that repair the source address of what the sockets
// of the network namespace with this cookie send. They are loaded when they are
// first asked for, and closed with the datapath.
func (d *Datapath) Source(namespace uint64) (*source.Programs, error) {
	if d.source == nil {
		if err := inLittleMemory(func() error { return d.loadSource(namespace) }); err != nil {
			return nil, err
		}
	}
	return d.source, nil
}

func (d *Datapath) loadSource(namespace uint64) error {
	spec, err := d.spec()
	if err != nil {
		return err
	}
	if err := spec.Variables[bpf.DatapathVarOwnNamespace].Set(namespace); err != nil {
		return err
	}
	programs := new(source.Programs)
	if err := d.loadPrograms(programs, spec, new(ebpf.CollectionOptions)); err != nil {
		return err
	}
	d.source = programs
	return errors.Join(d.keep(send4Name, programs.Send4), d.keep(send6Name, programs.Send6))
}

// askedSets returns the number of sets of the table of who asked last: for one
// in eight of the flows without a connection. Each entry is needed for as long as
// an answer takes, and those of conversations go last.
func askedSets(largest uint32) uint32 { return setsFor(largest / 16) }

// copyAsked enters the sets of one table in another of a different size. What
// finds no room comes back with the next question.
func copyAsked(to, from *ebpf.Map) (err error) {
	read := eachSet(from, func(set *bpf.DatapathAskedSet) bool {
		for way, asker := range set.Asker {
			if asker == 0 {
				continue
			}
			if err = putAsked(to, asker, set.Flow[way]); err != nil {
				return false
			}
		}
		return true
	})
	return errors.Join(read, err)
}

func putAsked(table *ebpf.Map, asker, flow uint64) error {
	index, _ := bpf.Sets(asker, table.MaxEntries())
	var set bpf.DatapathAskedSet
	if err := table.Lookup(index, &set); err != nil {
		return err
	}
	for way, taken := range set.Asker {
		if taken == 0 {
			set.Asker[way], set.Flow[way] = asker, flow
			break
		}
	}
	return table.Put(index, &set)
}
