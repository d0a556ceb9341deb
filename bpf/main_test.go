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
	"replypath/bpf/internal/fuzz"
	"replypath/bpf/internal/rig"
)

// The namespace and the programs are made once: the tests of this package share them, one after the other, and begin
// with empty maps.
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
	normal    variant = iota
	oldKernel         // without what 5.10 lacks

	// Of these only the programs for devices with an Ethernet header are run.
	counting    // what it costs is counted
	interrupted // another CPU writes a table meanwhile
	twoBuckets  // a table that is full soon
	crowded     // one of 1,024 places

	// Of these maps only the first element is there, so that lookups of others fail.
	withoutEvents

	fuzzed
	fuzzedOld // without what 5.10 lacks
)

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

// options says how the variant is loaded.
func (v variant) options() rig.Options {
	// The seeds are the same every time, so that no mark's place is the first by chance.
	lacking := func(names ...string) rig.Options {
		return rig.Options{Seeds: &bpf.Seeds{3, 5, 7, 11, 13, 17, 19, 23, 29, 31}, Change: func(maps map[string]*ebpf.MapSpec) {
			for _, name := range names {
				maps[name].MaxEntries = 1
			}
		}}
	}
	opts := map[variant]rig.Options{
		normal:        {Probes: true},
		oldKernel:     {Probes: true, OldKernel: true},
		interrupted:   {Meanwhile: true},
		twoBuckets:    {Flows: 8},
		crowded:       {Flows: 512},
		counting:      {Probes: true, CountCost: true},
		withoutEvents: lacking(bpf.DatapathMapEvents, bpf.DatapathMapPairSlots),
		fuzzed:        fuzz.Options(false),
		fuzzedOld:     fuzz.Options(true),
	}[v]
	opts.Namespace = host.Cookie
	if counting <= v && v <= withoutEvents {
		opts.Only = []string{
			bpf.DatapathProgReplypathIngress, bpf.DatapathProgReplypathEgress, bpf.DatapathProgReplypathSend,
			bpf.DatapathProgReplypathClock,
		}
	}
	return opts
}

// load returns the datapath of a variant with empty maps.
func load(v variant) (*rig.Datapath, error) {
	l := loaded[v]
	if l == nil {
		l = &loading{}
		l.datapath, l.err = rig.Load(v.options())
		loaded[v] = l
	}
	if l.err != nil {
		return nil, l.err
	}
	return l.datapath, l.datapath.Clear()
}
