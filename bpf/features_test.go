// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"testing"

	"github.com/cilium/ebpf/btf"
)

// TestKernelSKB: the name stands for the function.
func TestKernelSKB(t *testing.T) {
	types, err := btf.LoadKernelSpec()
	if err != nil {
		t.Fatal(err)
	}
	var function *btf.Func
	want := types.TypeByName("bpf_cast_to_kern_ctx", &function) == nil
	if has, err := haveKernelSKB(); has != want || err != nil {
		t.Errorf("found %t, %v; the function is there: %t", has, err, want)
	}
}
