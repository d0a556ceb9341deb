// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
)

// leads are what the programs do in another way: the lookup of a flow in the kernel's maps, and counters that
// CPUs share. None has a bound, as nothing of it is in a program.
type leads struct {
	bench *bench
	owned []io.Closer
}

func newLeads(b *bench) (group, error) { return &leads{bench: b}, nil }

func (l *leads) close() error {
	var errs []error
	for _, c := range slices.Backward(l.owned) {
		errs = append(errs, c.Close())
	}
	return errors.Join(errs...)
}

func (l *leads) cases() (all []testCase, err error) {
	for _, concern := range []func() ([]testCase, error){l.lookupCases, l.counterCases} {
		cases, err := concern()
		if err != nil {
			return nil, err
		}
		all = append(all, cases...)
	}
	return all, nil
}

// program passes every packet once it has done this.
func (l *leads) program(instructions asm.Instructions) (*ebpf.Program, error) {
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "lead", Type: ebpf.SchedCLS, License: "Dual BSD/GPL",
		Instructions: append(instructions, asm.Mov.Imm(asm.R0, tcActUnspec).WithSymbol("done"), asm.Return()),
	})
	if err != nil {
		return nil, fmt.Errorf("load the program of a lead: %w", err)
	}
	l.owned = append(l.owned, program)
	return program, nil
}

func (l *leads) newMap(spec ebpf.MapSpec) (*ebpf.Map, error) {
	m, err := ebpf.NewMap(&spec)
	if err != nil {
		return nil, fmt.Errorf("make the %s of a lead: %w", spec.Type, err)
	}
	l.owned = append(l.owned, m)
	return m, nil
}

// lead is a case of a program that does not look at the packet.
func (l *leads) lead(name string, program, baseline *ebpf.Program) testCase {
	c := l.bench.ingressARP()
	c.name, c.bound, c.aim, c.program, c.baseline = "lead: "+name, 0, 0, program, baseline
	return c
}
