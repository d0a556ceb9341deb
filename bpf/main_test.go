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
	normal    variant = iota // every flow table is one set
	oldKernel                // without what 5.10 lacks
	manySets                 // flow tables of several sets
	onePair                  // room for one interface pair in the hash
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

// load returns the datapath of a variant with empty maps.
func load(v variant) (*rig.Datapath, error) {
	l := loaded[v]
	if l == nil {
		opts := rig.Options{OldKernel: v == oldKernel, Probes: v == normal}
		switch v {
		case manySets:
			opts.Sets = 100
		case onePair:
			opts.Change = func(maps map[string]*ebpf.MapSpec) { maps[bpf.DatapathMapPairs].MaxEntries = 1 }
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
