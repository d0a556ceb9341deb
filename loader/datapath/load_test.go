// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"

	"replypath/bpf"
	"replypath/loader/attach"
	"replypath/test/await"
)

// What the kernel lacks is told by name and with the remedy; what it refuses for another reason stays as it is.
func TestExplainMap(t *testing.T) {
	create := fmt.Errorf("map create: %w", unix.EINVAL)
	lacking := fmt.Errorf("RingBuf: %w", ebpf.ErrNotSupported)
	for name, test := range map[string]struct {
		err, probed error
		want        string
		unsupported bool
	}{
		"no such type": {create, lacking,
			"not supported here: RingBuf: not supported: use a kernel of 5.10 or later that is built as distributions do", true},
		"no such flag": {lacking, nil,
			"not supported here: RingBuf: not supported: use a kernel of 5.10 or later that is built as distributions do", true},
		"a wrong argument":   {create, nil, "map create: invalid argument", false},
		"no memory":          {unix.ENOMEM, nil, "cannot allocate memory", false},
		"type without probe": {create, errors.New("no feature probe"), "map create: invalid argument", false},
		"not allowed to ask": {unix.EPERM, unix.EPERM, "operation not permitted", false},
	} {
		t.Run(name, func(t *testing.T) {
			err := explainMap(test.err, test.probed)
			if err.Error() != test.want || errors.Is(err, attach.ErrUnsupported) != test.unsupported {
				t.Errorf("got %v, want %s", err, test.want)
			}
			if !test.unsupported && !errors.Is(err, test.err) {
				t.Errorf("%v does not match its cause", err)
			}
		})
	}
}

// So is what it lacks of the programs.
func TestLoadProgramsFails(t *testing.T) {
	spec := &ebpf.CollectionSpec{Programs: map[string]*ebpf.ProgramSpec{
		"odd": {Name: "odd", Type: ebpf.SchedCLS, License: "GPL", Instructions: asm.Instructions{asm.Return()}}, // of nothing
	}}
	to := new(struct {
		Odd *ebpf.Program `ebpf:"odd"`
	})
	err := new(mapSet).loadPrograms(to, spec, new(ebpf.CollectionOptions))
	if !errors.Is(err, unix.EACCES) || errors.Is(err, attach.ErrUnsupported) || !strings.HasPrefix(err.Error(), "load programs: ") {
		t.Errorf("refused by the verifier: %v", err)
	}
	err = blameKernel(fmt.Errorf("program replypath_egress: %w", ebpf.ErrNotSupported))
	const want = "not supported here: program replypath_egress: not supported: use a kernel of 5.10 or later that is built as distributions do"
	if err.Error() != want || !errors.Is(err, attach.ErrUnsupported) {
		t.Errorf("got %v, want %s", err, want)
	}
}

// A map that the kernel refuses is refused with its name, and is none of the datapath's.
func TestNewMapFails(t *testing.T) {
	s := newMapSet(nil, Options{})
	err := s.newMap("odd", &ebpf.MapSpec{Type: ebpf.RingBuf, MaxEntries: 3})
	if !errors.Is(err, unix.EINVAL) || errors.Is(err, attach.ErrUnsupported) || !strings.HasPrefix(err.Error(), "create map odd of 3 entries: ") {
		t.Errorf("error %v", err)
	}
	if len(s.all) != 0 || len(s.fresh) != 0 {
		t.Errorf("it has %v", s.all)
	}
}

// What is pinned shows its types, what is not has none.
func TestTypesOfPinnedMaps(t *testing.T) {
	spec, err := (&Options{MaxEntries: 1 << 10}).spec()
	await.Must(t, err)
	for name, m := range spec.Maps {
		if m.Type == ebpf.RingBuf { // has no entries
			continue
		}
		if typed := m.Value != nil; typed == bpf.IsInternal(name) {
			t.Errorf("map %s has types: %v", name, typed)
		}
	}
}
