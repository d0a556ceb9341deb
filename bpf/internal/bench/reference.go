// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
)

const (
	// referenceName begins the report: how fast the machine is.
	referenceName = "reference: eight lookups in a hash map"
	// referenceCost is what that costs over an empty program where the bounds are from: an
	// AMD EPYC with Linux 6.18, Retpolines and Safe RET.
	referenceCost = 138.0
	// recordedCost is what it costs where the recorded limits are from (see limit), which has neither of these.
	recordedCost = 52.0

	referenceLookups = 8

	// furtherTries is how often what is beyond its bound is measured further.
	furtherTries = 30
)

// reference has nothing of ours: what it costs says how fast this machine is at present.
func (b *bench) reference() (*testCase, error) {
	entries, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Hash, KeySize: 8, ValueSize: 8, MaxEntries: 1024})
	if err != nil {
		return nil, fmt.Errorf("make the reference's map: %w", err)
	}
	var instructions asm.Instructions
	for range referenceLookups {
		instructions = append(instructions,
			asm.Mov.Imm(asm.R1, 0),
			asm.StoreMem(asm.R10, -8, asm.R1, asm.DWord),
			asm.LoadMapPtr(asm.R1, entries.FD()),
			asm.Mov.Reg(asm.R2, asm.R10),
			asm.Add.Imm(asm.R2, -8),
			asm.FnMapLookupElem.Call(),
		)
	}
	program, err := loadProgram("reference", ebpf.SchedCLS,
		append(instructions, asm.Mov.Imm(asm.R0, tcActUnspec), asm.Return())...)
	c := *b.cases[0]
	c.name, c.limit, c.program = referenceName, limit{}, program
	return &c, errors.Join(err, entries.Put(uint64(0), uint64(0)))
}

// scale raises the bounds by as much as the machine is slower than the one that they are from, as the reference shows.
// What counts is the quickest round of each: a busy neighbour on the same core costs eight lookups a fifth, and a
// redirect, which needs more of the caches, twice its time.
func (r *report) scale() {
	for _, reference := range r.Results {
		if reference.Name != referenceName {
			continue
		}
		r.Slower = max(1, reference.Quiet/referenceCost)
		recorded := max(1, reference.Quiet/recordedCost)
		for i := range r.Results {
			result := &r.Results[i]
			result.Bound = max(result.Bound*r.Slower, result.recorded*recorded)
		}
	}
}

// scaleAgain scales, and measures what is beyond its bound further, beside the reference. More rounds
// only find quicker ones: what a neighbour disturbed in all of the first comes right, and what
// takes longer than its bound stays beyond it.
func (r *report) scaleAgain(measurements []*measurement) error {
	r.scale()
	for range furtherTries {
		var again []*measurement
		for i, result := range r.Results {
			if result.Name == referenceName || result.exceeds(true) {
				again = append(again, measurements[i])
			}
		}
		if len(again) == 1 {
			return nil
		}
		if err := measure(again, uint32(r.Repeat), int(r.Rounds)); err != nil {
			return err
		}
		r.Results = results(measurements)
		r.scale()
	}
	return nil
}
