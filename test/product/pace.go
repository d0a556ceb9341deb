// SPDX-License-Identifier: Apache-2.0

package product

import (
	"runtime"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sync/errgroup"

	"replypath/test/await"
)

// referenceTime is what reference takes on the slowest machine whose starts are to be within their bounds: two cores of
// 2.5 GHz that nobody else uses.
const referenceTime = 100 * time.Millisecond

// Pace says how much slower this machine is at the moment than a start's bound supposes, 1 if it is not: processors that
// a neighbour of the machine has, or that are slow, take as long for the same work of the verifier, which is most of a start.
func Pace(t testing.TB) float64 {
	t.Helper()
	return max(1, float64(reference(t))/float64(referenceTime))
}

// reference times how long the verifier takes for a program that never changes, on each processor at once.
func reference(t testing.TB) time.Duration {
	t.Helper()
	var group errgroup.Group
	begin := time.Now()
	for range runtime.NumCPU() {
		group.Go(func() error {
			program, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SchedCLS, License: "Apache-2.0", Instructions: walked()})
			if err != nil {
				return err
			}
			return program.Close()
		})
	}
	await.Must(t, group.Wait())
	return time.Since(begin)
}

// walked is a program whose loop the verifier walks once for each turn, and whose states differ in each.
func walked() asm.Instructions {
	const turns = 20_000
	return asm.Instructions{
		asm.Mov.Imm(asm.R0, 0),
		asm.FnGetPrandomU32.Call(),
		asm.And.Imm(asm.R0, 0xff),
		asm.StoreMem(asm.RFP, -8, asm.R0, asm.DWord),
		asm.Mov.Imm(asm.R1, 0),
		asm.LoadMem(asm.R2, asm.RFP, -8, asm.DWord).WithSymbol("turn"),
		asm.Add.Imm(asm.R2, 1),
		asm.StoreMem(asm.RFP, -8, asm.R2, asm.DWord),
		asm.Add.Imm(asm.R1, 1),
		asm.JLT.Imm(asm.R1, turns, "turn"),
		asm.Mov.Imm(asm.R0, 0),
		asm.Return(),
	}
}
