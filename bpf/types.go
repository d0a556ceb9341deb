// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"sync"
	"weak"

	"github.com/cilium/ebpf/btf"
)

var kernelTypes struct {
	sync.Mutex
	last weak.Pointer[btf.Cache]
}

// KernelTypes returns the running kernel's types. They are 6 MB, which all who need them at the same time share, and
// nobody keeps.
func KernelTypes() *btf.Cache {
	kernelTypes.Lock()
	defer kernelTypes.Unlock()
	if types := kernelTypes.last.Value(); types != nil {
		return types
	}
	types := btf.NewCache()
	kernelTypes.last = weak.Make(types)
	return types
}
