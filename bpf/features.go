package bpf

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/features"
)

// Features are what the programs use where the kernel has it and do without
// where it has not.
type Features struct {
	CheckMTU  bool // bpf_check_mtu, from 5.12
	KernelSKB bool // bpf_cast_to_kern_ctx, from 6.2
}

// ProbeFeatures asks the running kernel.
func ProbeFeatures() (Features, error) {
	var (
		f    Features
		errs [2]error
	)
	f.CheckMTU, errs[0] = haveCheckMTU()
	f.KernelSKB, errs[1] = haveKernelSKB()
	return f, errors.Join(errs[:]...)
}

func haveCheckMTU() (bool, error) {
	err := features.HaveProgramHelper(ebpf.SchedCLS, asm.FnCheckMtu)
	switch {
	case errors.Is(err, ebpf.ErrNotSupported):
		return false, nil
	case err != nil:
		return false, fmt.Errorf("ask the kernel for bpf_check_mtu: %w", err)
	}
	return true, nil
}

// haveKernelSKB looks for the function in the kernel's own types: only those
// functions that programs may call are called bpf_*.
func haveKernelSKB() (bool, error) {
	types, err := btf.LoadKernelSpec()
	if err != nil {
		return false, fmt.Errorf("read the kernel's types: %w", err)
	}
	var function *btf.Func
	err = types.TypeByName("bpf_cast_to_kern_ctx", &function)
	switch {
	case errors.Is(err, btf.ErrNotFound):
		return false, nil
	case err != nil:
		return false, fmt.Errorf("look for bpf_cast_to_kern_ctx: %w", err)
	}
	return true, nil
}

// SetFeatures writes them into the constants of the programs.
func SetFeatures(spec *ebpf.CollectionSpec, f Features) error {
	return errors.Join(
		spec.Variables[DatapathVarHaveCheckMtu].Set(f.CheckMTU),
		spec.Variables[DatapathVarHaveKernelSkb].Set(f.KernelSKB),
	)
}
