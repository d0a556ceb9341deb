// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"bytes"
	"errors"
	"fmt"
	"os"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/features"
	"golang.org/x/sys/unix"
)

// Features are what the programs use where the kernel has it and do without
// where it has not.
type Features struct {
	CheckMTU  bool // bpf_check_mtu, from 5.12
	ProbeRead bool // bpf_probe_read_kernel, unless the kernel is locked down for confidentiality
	KernelSKB bool // bpf_cast_to_kern_ctx, from 6.2
	TailCalls bool // in programs with functions: where the JIT can mix them, on arm64 from 6.0
}

// ProbeFeatures asks the running kernel.
func ProbeFeatures() (Features, error) {
	var (
		f    Features
		errs [4]error
	)
	f.CheckMTU, errs[0] = haveHelper(asm.FnCheckMtu)
	f.ProbeRead, errs[1] = haveHelper(asm.FnProbeReadKernel)
	f.KernelSKB, errs[2] = haveKernelSKB()
	f.TailCalls, errs[3] = haveTailCalls()
	return f, errors.Join(errs[:]...)
}

func haveHelper(helper asm.BuiltinFunc) (bool, error) {
	err := features.HaveProgramHelper(ebpf.SchedCLS, helper)
	switch {
	case errors.Is(err, ebpf.ErrNotSupported), errors.Is(err, unix.EINVAL): // the library does not know what newer kernels say
		return false, nil
	case err != nil:
		return false, fmt.Errorf("ask the kernel for %v: %w", helper, err)
	}
	return true, nil
}

// haveKernelSKB looks for the name of the function in the kernel's own types: only those
// functions that programs may call are called bpf_*. To parse the types would take longer than all else
// that a start does that loads no program.
func haveKernelSKB() (bool, error) {
	types, err := os.ReadFile("/sys/kernel/btf/vmlinux")
	if err != nil {
		return false, fmt.Errorf("read the kernel's types: %w", err)
	}
	return bytes.Contains(types, []byte("\x00bpf_cast_to_kern_ctx\x00")), nil
}

// haveTailCalls loads a program that has a tail call and a function, which the kernel
// refuses where its JIT cannot tell whose stack it is (kernel/bpf/verifier.c,
// check_map_func_compatibility).
func haveTailCalls() (bool, error) {
	table, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.ProgramArray, KeySize: 4, ValueSize: 4, MaxEntries: 1})
	if err != nil {
		return false, fmt.Errorf("make a table for tail calls: %w", err)
	}
	defer table.Close()
	const function = "function"
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.SchedCLS,
		Instructions: asm.Instructions{
			asm.LoadMapPtr(asm.R2, table.FD()),
			asm.Mov.Imm(asm.R3, 0),
			asm.FnTailCall.Call(),
			asm.Call.Label(function),
			asm.Return(),
			asm.Mov.Imm(asm.R0, 0).WithSymbol(function),
			asm.Return(),
		},
		License: "GPL",
	})
	if errors.Is(err, unix.EINVAL) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("ask the kernel for tail calls: %w", err)
	}
	return true, Close(program)
}

// SetFeatures writes them into the constants of the programs.
func SetFeatures(spec *ebpf.CollectionSpec, f Features) error {
	return errors.Join(
		spec.Variables[DatapathVarHaveCheckMtu].Set(f.CheckMTU),
		spec.Variables[DatapathVarHaveProbeRead].Set(f.ProbeRead),
		spec.Variables[DatapathVarHaveKernelSkb].Set(f.KernelSKB),
		spec.Variables[DatapathVarHaveTailCalls].Set(f.TailCalls),
	)
}
