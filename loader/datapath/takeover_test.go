// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"reflect"
	"slices"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"

	"replypath/bpf"
	"replypath/test/await"
)

// TestOrigin: whatever goes into the programs makes their origin another one.
func TestOrigin(t *testing.T) {
	origins := make(map[digest]string)
	look := func(what string, change func(*notebook)) {
		t.Helper()
		n := &notebook{opts: Options{MaxEntries: 1 << 10}, maps: newMapSet(nil, Options{})}
		n.maps.ids["events"], n.maps.ids["pairs"] = 7, 8
		change(n)
		origin, err := n.origin()
		await.Must(t, err)
		if other, has := origins[origin]; has {
			t.Errorf("the origin with %s is that with %s", what, other)
		}
		origins[origin] = what
		if again, err := n.origin(); err != nil || again != origin {
			t.Errorf("with %s it is another one the second time: %v", what, err)
		}
	}
	look("nothing changed", func(*notebook) {})
	look("another object", func(n *notebook) { n.opts.Object = &Object{Name: "another"} })
	look("other seeds", func(n *notebook) { n.opts.Seeds[0]++ })
	look("another map", func(n *notebook) { n.maps.ids["events"]++ })
	look("maps by each other's names", func(n *notebook) { n.maps.ids["events"], n.maps.ids["pairs"] = 8, 7 })
	look("one map less", func(n *notebook) { delete(n.maps.ids, "pairs") })
	features := reflect.TypeFor[bpf.Features]()
	for i := range features.NumField() {
		look(features.Field(i).Name, func(n *notebook) { reflect.ValueOf(&n.opts.Features).Elem().Field(i).SetBool(true) })
	}
}

// TestConstantsAreOfTheOrigin: a constant of the object that is set is one of those by which the origin differs. The size of the
// table is that of a map, and the machine is in the origin.
func TestConstantsAreOfTheOrigin(t *testing.T) {
	plain, err := bpf.LoadDatapath()
	await.Must(t, err)
	opts := Options{MaxEntries: 1 << 10, Seeds: bpf.Seeds{1}}
	features := reflect.ValueOf(&opts.Features).Elem()
	for i := range features.NumField() {
		features.Field(i).SetBool(true)
	}
	set, err := opts.spec()
	await.Must(t, err)
	count := 1 // the kernel's frequency may be that of the object
	for name, variable := range set.Variables {
		others := []string{bpf.DatapathVarHertz, bpf.DatapathVarLastBucket, bpf.DatapathVarOrdersStores}
		if !slices.Contains(others, name) && !slices.Equal(variable.Value, plain.Variables[name].Value) {
			count++
		}
	}
	await.Same(t, "constants that are set", reflect.TypeFor[Constants]().NumField()-1+features.NumField(), count)
}

// TestNotes: of two programs that look the same, and of one for another network namespace, another note is made.
func TestNotes(t *testing.T) {
	newProgram := func() *ebpf.Program {
		p, err := ebpf.NewProgram(&ebpf.ProgramSpec{
			Name: "same", Type: ebpf.SchedCLS, License: "GPL",
			Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()},
		})
		await.Must(t, err)
		t.Cleanup(func() { p.Close() })
		return p
	}
	first, second := newProgram(), newProgram()
	seen := make(map[digest]bool)
	for _, of := range []struct {
		origin    digest
		namespace uint64
		program   *ebpf.Program
	}{{digest{}, 0, first}, {digest{}, 0, second}, {digest{}, 1, first}, {digest{1}, 0, first}} {
		note, err := noteOf(of.origin, of.namespace, of.program)
		if err != nil || seen[note] {
			t.Errorf("%v: note %x, seen before: %t, error %v", of, note, seen[note], err)
		}
		seen[note] = true
	}
	if note, err := noteOf(digest{}, 0, first); err != nil || !seen[note] {
		t.Errorf("the second time it is %x, %v", note, err)
	}
}
