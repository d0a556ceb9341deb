// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"testing"

	"replypath/bpf"
)

// TestShapes: they are what the object says.
func TestShapes(t *testing.T) {
	spec, err := bpf.LoadDatapath()
	if err != nil {
		t.Fatal(err)
	}
	shapes := bpf.Shapes()
	for name, m := range spec.Maps {
		s := shapes[name]
		if bpf.IsInternal(name) {
			if s != nil {
				t.Errorf("%s is none that is pinned", name)
			}
			continue
		}
		if s == nil {
			t.Errorf("%s is missing: make generate", name)
		} else if s.Name != m.Name || s.Type != m.Type || s.KeySize != m.KeySize || s.ValueSize != m.ValueSize || s.MaxEntries != m.MaxEntries || s.Flags != m.Flags {
			t.Errorf("%s is %v, not %v: make generate", name, s, m)
		}
	}
	if len(shapes) == 0 {
		t.Error("there are none")
	}
}
