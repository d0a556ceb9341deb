// SPDX-License-Identifier: Apache-2.0

// Package pace tells how fast the machine is, so that what a test demands of time holds on slow ones and beside neighbours.
package pace

import (
	"fmt"
	"runtime"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sync/errgroup"
)

// referenceTime is what the reference takes on the machine that the times of the tests were found on: two cores that
// nobody else uses.
const referenceTime = 100 * time.Millisecond

// Now says how many times as long as there the same work takes here at the moment; 1 where it takes less. The work is the
// verifier's, which is most of a start, on each processor at once.
func Now() (times float64, err error) {
	var all errgroup.Group
	begin := time.Now()
	for range runtime.NumCPU() {
		all.Go(verify)
	}
	if err := all.Wait(); err != nil {
		return 0, fmt.Errorf("time the verifier: %w", err)
	}
	return max(1, float64(time.Since(begin))/float64(referenceTime)), nil
}

// verify has the kernel verify a program that never changes.
func verify() error {
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SchedCLS, License: "Apache-2.0", Instructions: reference})
	if err != nil {
		return err
	}
	return program.Close()
}

// reference has a loop that the verifier walks turn by turn, as its state differs in each.
var reference = asm.Instructions{
	asm.FnGetPrandomU32.Call(),
	asm.And.Imm(asm.R0, 0xff),
	asm.StoreMem(asm.RFP, -8, asm.R0, asm.DWord),
	asm.Mov.Imm(asm.R1, 0),
	asm.LoadMem(asm.R2, asm.RFP, -8, asm.DWord).WithSymbol("turn"),
	asm.Add.Imm(asm.R2, 1),
	asm.StoreMem(asm.RFP, -8, asm.R2, asm.DWord),
	asm.Add.Imm(asm.R1, 1),
	asm.JLT.Imm(asm.R1, 20_000, "turn"),
	asm.Mov.Imm(asm.R0, 0),
	asm.Return(),
}
