// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"fmt"

	"github.com/cilium/ebpf"

	"replypath/bpf"
)

// Forgetter takes entries out of the flow tables. The kernel does it, as only
// it can take the locks of the sets.
type Forgetter struct{ program *ebpf.Program }

// OpenForgetter opens the one that is pinned in the directory. The error matches
// pins.ErrNone where there is none.
func OpenForgetter(dir string) (*Forgetter, error) {
	program, err := openRunnable(dir, forgetName)
	if err != nil {
		return nil, err
	}
	return &Forgetter{program}, nil
}

// Close closes the program; it stays pinned.
func (f *Forgetter) Close() error { return f.program.Close() }

// Forget takes the entry with this digest out of a flow table; without one it
// does nothing.
func (f *Forgetter) Forget(table bpf.DatapathTable, digest uint64) error {
	request := &bpf.DatapathForgetRequest{Digest: digest, Table: uint32(table)}
	if err := runRequest(f.program, request); err != nil {
		return fmt.Errorf("forget a flow of table %d: %w", table, err)
	}
	return nil
}
