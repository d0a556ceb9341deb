// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"fmt"
	"path/filepath"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/rlimit"

	"replypath/loader/pins"
)

// openRunnable opens a program that is pinned in the directory, to be run from
// user space. The error matches pins.ErrNone where there is none.
func openRunnable(dir, name string) (*ebpf.Program, error) {
	var program *ebpf.Program
	err := withPinned(dir, func(path string) (err error) {
		program, err = ebpf.LoadPinnedProgram(filepath.Join(path, programsDir, name), nil)
		return err
	})
	if errors.Is(err, pins.ErrNone) {
		return nil, err
	}
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", name, err)
	}
	return program, nil
}

// run runs a program, and returns its verdict. Before its first run ebpf loads one of its own, to see whether
// the kernel can run any. Before 5.11 that counts as locked memory of the user, of which the tables have
// taken more than the usual limit by then.
func run(program *ebpf.Program, data []byte) (uint32, error) {
	if err := rlimit.RemoveMemlock(); err != nil {
		return 0, fmt.Errorf("raise the limit of locked memory: %w", err)
	}
	return program.Run(&ebpf.RunOptions{Data: data})
}
