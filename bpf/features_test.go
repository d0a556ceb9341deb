// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"

	"replypath/bpf"
)

// TestExchanges: kernels before 5.12 refuse programs with an atomic exchange, wherever it stands.
func TestExchanges(t *testing.T) {
	for _, wanted := range []bool{false, true} {
		spec, err := bpf.LoadDatapath()
		if err != nil {
			t.Fatal(err)
		}
		if err := bpf.SetFeatures(spec, bpf.Features{Barrier: wanted}); err != nil {
			t.Fatal(err)
		}
		if n := countExchanges(spec); wanted != (n > 0) {
			t.Errorf("barriers wanted: %t, %d exchanges", wanted, n)
		}
	}
}

func countExchanges(spec *ebpf.CollectionSpec) (n int) {
	for _, program := range spec.Programs {
		for _, i := range program.Instructions {
			if i.OpCode == asm.Xchg.OpCode(asm.DWord) {
				n++
			}
		}
	}
	return n
}
