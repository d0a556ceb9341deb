// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"errors"
	"fmt"
	"os"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/rlimit"

	"replypath/bpf"
	"replypath/bpf/internal/rig"
)

// The namespace and the programs are made once: the tests of this package share
// them, one after the other, and begin with empty maps.
var (
	host     *rig.Host
	loaded   = make(map[variant]*loading)
	eventSet eventNames
)

// loading is the outcome of the one attempt to load a variant.
type loading struct {
	datapath *rig.Datapath
	err      error
}

// variant names a way to load the datapath.
type variant int

const (
	normal      variant = iota // every flow table is one set
	oldKernel                  // without what 5.10 lacks
	manySets                   // flow tables of several sets
	onePair                    // room for one interface pair in the hash
	interrupted                // another CPU writes a table meanwhile
	interruptedHandshake
	slowWay    // two CPUs that write a flow's way meet
	noNursery  // connections begin in the tables
	counting   // what it costs is counted, and a request sends each SYN-ACK
	smallRings // as little room as there can be for what user space is told

	// Of these maps only the first element is there, so that lookups of others fail.
	withoutTables
	withoutTags
	withoutLocks
	withoutPlaces // where nothing depends on what is found
	withoutEvents
)

// lacking are those maps.
var lacking = map[variant][]string{
	withoutTables: {bpf.DatapathMapNursery, bpf.DatapathMapHalfOpen, bpf.DatapathMapEstablished, bpf.DatapathMapConnectionless, bpf.DatapathMapOutbound},
	withoutTags:   {bpf.DatapathMapNurseryTags, bpf.DatapathMapHalfOpenTags, bpf.DatapathMapEstablishedTags, bpf.DatapathMapConnectionlessTags},
	withoutLocks:  {bpf.DatapathMapSetLocks},
	withoutPlaces: {bpf.DatapathMapMarks, bpf.DatapathMapForeign, bpf.DatapathMapFragments, bpf.DatapathMapPairSlots},
	withoutEvents: {bpf.DatapathMapEvents},
}

func TestMain(m *testing.M) {
	code, err := runTests(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "bpf tests:", err)
		code = 1
	}
	os.Exit(code)
}

func runTests(m *testing.M) (code int, err error) {
	if os.Geteuid() != 0 {
		return 0, errors.New("need root to load programs and to make a network namespace")
	}
	if err := rlimit.RemoveMemlock(); err != nil { // kernels before 5.11
		return 0, fmt.Errorf("remove memlock limit: %w", err)
	}
	if eventSet, err = readEventNames(); err != nil {
		return 0, err
	}
	if host, err = rig.NewHost(3); err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, host.Close()) }()
	defer func() {
		for _, l := range loaded {
			if l.err == nil {
				err = errors.Join(err, l.datapath.Close())
			}
		}
	}()
	if err := setUpAddresses(); err != nil {
		return 0, err
	}
	if _, err := load(normal); err != nil {
		return 0, err
	}
	return m.Run(), nil
}

// interruptions are the tables that another CPU writes.
var interruptions = map[variant]string{
	interrupted:          bpf.DatapathMapConnectionless,
	interruptedHandshake: bpf.DatapathMapHalfOpen,
}

// load returns the datapath of a variant with empty maps.
func load(v variant) (*rig.Datapath, error) {
	l := loaded[v]
	if l == nil {
		opts := rig.Options{OldKernel: v == oldKernel, Probes: v == normal || v == oldKernel || v == counting, Namespace: host.Cookie,
			Meanwhile: interruptions[v], SlowWay: v == slowWay, NoNursery: v == noNursery,
			Requests: v == counting, CountCost: v == counting}
		switch v {
		case manySets:
			opts.Sets = 100
		case onePair:
			opts.Change = func(maps map[string]*ebpf.MapSpec) { maps[bpf.DatapathMapPairs].MaxEntries = 1 }
		case smallRings:
			opts.Change = func(maps map[string]*ebpf.MapSpec) {
				for _, name := range []string{bpf.DatapathMapRepairWanted, bpf.DatapathMapTraceEvents} {
					maps[name].MaxEntries = uint32(os.Getpagesize())
				}
			}
		default:
			if names := lacking[v]; names != nil {
				// The same every time, so that no flow's place is the first by chance.
				opts.Sets, opts.Seeds = 100, &bpf.Seeds{3, 5, 7, 11, 13, 17, 19, 23, 29, 31}
				opts.Change = func(maps map[string]*ebpf.MapSpec) {
					for _, name := range names {
						maps[name].MaxEntries = 1
					}
				}
			}
		}
		l = &loading{}
		l.datapath, l.err = rig.Load(opts)
		loaded[v] = l
	}
	if l.err != nil {
		return nil, l.err
	}
	return l.datapath, l.datapath.Clear()
}
