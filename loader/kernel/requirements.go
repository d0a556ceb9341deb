// SPDX-License-Identifier: Apache-2.0

// Package kernel tells what loading and attaching take of the kernel and of the process, and what of it
// is there.
package kernel

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/features"
	"golang.org/x/sys/unix"

	"replypath/bpf"
	"replypath/loader/attach"
)

// BTFPath is where the kernel describes its own types, by which the programs
// find the fields of its sockets.
const BTFPath = "/sys/kernel/btf/vmlinux"

// CheckCall returns an error that matches attach.ErrUnsupported where bpf(2) itself is
// refused, which capabilities do not tell. No kernel has the command that it gives.
func CheckCall() error {
	if _, _, err := unix.Syscall(unix.SYS_BPF, math.MaxInt32, 0, 0); err == unix.EPERM || err == unix.ENOSYS {
		return fmt.Errorf("%w: bpf(2) is refused, by a filter of system calls or a security module: allow it: %w",
			attach.ErrUnsupported, err)
	}
	return nil
}

// CheckBTF returns an error that matches attach.ErrUnsupported where the kernel has no BTF.
func CheckBTF() error {
	if _, err := os.Stat(BTFPath); errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: the kernel has no BTF (%s): use one that is built with CONFIG_DEBUG_INFO_BTF=y",
			attach.ErrUnsupported, BTFPath)
	}
	return nil
}

// CheckPrograms returns an error that matches attach.ErrUnsupported where the kernel has no programs
// for tc. What it takes besides to make maps and to attach is told when it comes to that.
func CheckPrograms() error {
	switch err := features.HaveProgramType(ebpf.SchedCLS); {
	case errors.Is(err, ebpf.ErrNotSupported):
		return fmt.Errorf("%w: the kernel has no bpf programs for tc: use kernel 5.10 or later, built with CONFIG_BPF_SYSCALL=y and CONFIG_NET=y: %w",
			attach.ErrUnsupported, err)
	case err != nil:
		return fmt.Errorf("ask the kernel for bpf programs for tc: %w", err)
	}
	return checkCPUs(ebpf.MustPossibleCPU())
}

// checkCPUs returns an error that matches attach.ErrUnsupported where the programs have no memory for so many CPUs.
func checkCPUs(possible int) error {
	if possible <= bpf.MaxCPUs {
		return nil
	}
	return fmt.Errorf("%w: the kernel is ready for %d CPUs, and the programs for %d: boot it with nr_cpus=%[3]d, or tell us",
		attach.ErrUnsupported, possible, bpf.MaxCPUs)
}
