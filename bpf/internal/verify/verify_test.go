// SPDX-License-Identifier: Apache-2.0

// Package verify shows what the verifier has to say about every program.
package verify

import (
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/rlimit"

	"replypath/bpf"
	"replypath/test/await"
)

// TestVerifier loads every program by itself, with and without what newer kernels have, and shows what the verifier has
// to say: how much it looked at, and how deep the stack gets.
func TestVerifier(t *testing.T) {
	if err := rlimit.RemoveMemlock(); err != nil { // kernels before 5.11
		t.Fatalf("remove memlock limit: %v", err)
	}
	present, err := bpf.ProbeFeatures()
	await.Must(t, err)
	variants := map[string]bpf.Features{"all that this kernel has": present, "what every kernel has": {}}
	for _, name := range slices.Sorted(maps.Keys(variants)) {
		t.Run(name, func(t *testing.T) { verifyAll(t, variants[name]) })
	}
}

func verifyAll(t *testing.T, f bpf.Features) {
	spec, err := bpf.LoadDatapath()
	await.Must(t, err)
	await.Must(t, bpf.SetFeatures(spec, f))
	// Of seeds that are 0 the verifier knows what every digest is, and gets lost in it.
	seeds, err := bpf.NewSeeds()
	await.Must(t, err)
	await.Must(t, spec.Variables[bpf.DatapathVarDigestSeed].Set(seeds))
	var instructions, stacks []string
	for _, name := range slices.Sorted(maps.Keys(spec.Programs)) {
		t.Run(name, func(t *testing.T) {
			looked, stack := verify(t, spec, name)
			instructions = append(instructions, name+" "+looked)
			stacks = append(stacks, stack)
		})
	}
	t.Logf("instructions looked at: %s", strings.Join(instructions, ", "))
	t.Logf("bytes of stack, of %d, in frames of multiples of %d: %s", maxStack, frameSize, strings.Join(stacks, "; "))
}

// verify loads one program, and returns how many instructions the verifier looked at, and which
// functions take most stack.
func verify(t *testing.T, spec *ebpf.CollectionSpec, name string) (looked, stack string) {
	collection, err := loadAlone(spec, name, ebpf.LogLevelStats)
	if refusal := new(ebpf.VerifierError); errors.As(err, &refusal) {
		// What it says is told only by a log of every step.
		_, err = loadAlone(spec, name, ebpf.LogLevelInstruction)
		if errors.As(err, &refusal) {
			t.Fatalf("%v\n%s", err, strings.Join(lastOf(refusal.Log, shownSteps), "\n"))
		}
	}
	await.Must(t, err)
	defer collection.Close()
	log := collection.Programs[name].VerifierLog
	match := processed.FindStringSubmatch(log)
	if match == nil {
		t.Fatalf("the verifier's log does not say what it looked at: %s", log)
	}
	depths, err := stackDepths(log)
	await.Must(t, err)
	chain, depth := deepestChain(spec.Programs[name].Instructions, depths)
	if depth > maxStack-frameSize {
		t.Errorf("kernels before 6.12 refuse more than %d bytes of stack, and a frame is to spare; %d: %s", maxStack, depth, chain)
	}
	return match[1], fmt.Sprintf("%d: %s", depth, chain)
}

// shownSteps bounds how much is shown of what led to a refusal.
const shownSteps = 60

func loadAlone(spec *ebpf.CollectionSpec, name string, level ebpf.LogLevel) (*ebpf.Collection, error) {
	alone := spec.Copy()
	alone.Programs = map[string]*ebpf.ProgramSpec{name: alone.Programs[name]}
	return ebpf.NewCollectionWithOptions(alone, ebpf.CollectionOptions{
		Programs: ebpf.ProgramOptions{LogLevel: level},
	})
}

func lastOf(lines []string, count int) []string {
	return lines[max(0, len(lines)-count):]
}

// The verifier's words (kernel/bpf/verifier.c, print_verification_stats).
var (
	processed  = regexp.MustCompile(`processed (\d+) insns `)
	stackDepth = regexp.MustCompile(`stack depth ([\d+]+)`)
)

// The stack of a chain of calls, in bytes, and what a frame was rounded up to
// before 6.12 (check_max_stack_depth_subprog).
const (
	maxStack  = 512
	frameSize = 32
)

// stackDepths returns the stack of each function, in their order.
func stackDepths(log string) ([]int, error) {
	match := stackDepth.FindStringSubmatch(log)
	if match == nil {
		return nil, fmt.Errorf("no stack depth in the verifier's log: %s", log)
	}
	var depths []int
	for number := range strings.SplitSeq(match[1], "+") {
		depth, err := strconv.Atoi(number)
		if err != nil {
			return nil, err
		}
		depths = append(depths, depth)
	}
	return depths, nil
}

// deepestChain finds the chain of calls that takes most stack, and how much, as kernels before 6.12 count it. depths
// are those of the functions in the order in which the instructions have them.
func deepestChain(instructions asm.Instructions, depths []int) (string, int) {
	frames := make(map[string]int)
	calls := make(map[string][]string)
	function, functions := "", 0
	for _, ins := range instructions {
		if symbol := ins.Symbol(); symbol != "" && functions < len(depths) && (functions == 0 || isCalled(instructions, symbol)) {
			function = symbol
			frames[function] = (max(depths[functions], 1) + frameSize - 1) / frameSize * frameSize
			functions++
		}
		if ins.IsFunctionReference() {
			calls[function] = append(calls[function], ins.Reference())
		}
	}
	var deepest func(string) (string, int)
	deepest = func(function string) (string, int) {
		chain, depth := "", 0
		for _, callee := range calls[function] {
			if c, d := deepest(callee); d > depth {
				chain, depth = " > "+c, d
			}
		}
		return fmt.Sprintf("%s %d%s", function, frames[function], chain), frames[function] + depth
	}
	return deepest(instructions.Name())
}

// isCalled tells functions from other labels.
func isCalled(instructions asm.Instructions, symbol string) bool {
	return slices.ContainsFunc(instructions, func(ins asm.Instruction) bool {
		return ins.IsFunctionReference() && ins.Reference() == symbol
	})
}
