// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"bytes"
	"errors"
	"io"
	"testing"
	"testing/iotest"

	"github.com/cilium/ebpf/btf"
)

// TestContains: a part is found wherever one reading ends, and nothing else is.
func TestContains(t *testing.T) {
	const size = 150_000
	for _, at := range []int{0, 1, 64<<10 - 2, 64 << 10, 128<<10 - 3, size - 4} {
		text := make([]byte, size)
		copy(text[at:], "abcd")
		for name, r := range map[string]io.Reader{
			"whole": bytes.NewReader(text), "halves": iotest.HalfReader(bytes.NewReader(text)),
			"end with data": iotest.DataErrReader(bytes.NewReader(text)),
		} {
			if has, err := contains(r, []byte("abcd")); !has || err != nil {
				t.Errorf("at %d, %s: %t, %v", at, name, has, err)
			}
		}
		if has, err := contains(bytes.NewReader(text), []byte("abce")); has || err != nil {
			t.Errorf("at %d, another: %t, %v", at, has, err)
		}
	}
	broken := errors.New("broken")
	if has, err := contains(iotest.ErrReader(broken), []byte("abcd")); has || !errors.Is(err, broken) {
		t.Errorf("of nothing: %t, %v", has, err)
	}
}

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
