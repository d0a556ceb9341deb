package datapath

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/rlimit"

	"replypath/loader/pins"
)

// openRunnable opens a program that is pinned in the directory, to be run from
// user space. The error matches pins.ErrNone where there is none.
//
// Before its first run ebpf loads a program of its own to see whether the kernel
// can run any. Before 5.11 that counts as locked memory of the user, of which
// the tables have taken more than the usual limit by then.
func openRunnable(dir, name string) (*ebpf.Program, error) {
	program, err := ebpf.LoadPinnedProgram(filepath.Join(dir, name), nil)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w in %s: start replypath run", pins.ErrNone, dir)
	}
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", name, err)
	}
	if err := rlimit.RemoveMemlock(); err != nil {
		return nil, errors.Join(fmt.Errorf("raise the limit of locked memory: %w", err), program.Close())
	}
	return program, nil
}
