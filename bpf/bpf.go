// SPDX-License-Identifier: Apache-2.0

// Package bpf holds the compiled datapath: the TC programs, their maps, and the
// types that both sides share, all generated from the C in src.
package bpf

import (
	"slices"

	"github.com/cilium/ebpf"
)

//go:generate go tool bpf2go -go-package bpf -no-global-types -cc clang-19 -strip llvm-strip-19 -target bpfel,bpfeb -type tuple -type flow -type path -type prefix_kind -type prefix_key -type note -type interface -type gateway -type exclusion -type exclusion_set -type settings -type pair -type pair_count -type pair_slot -type handover -type lead -type lead_kind -type proof -type layout -type tick -type idle_seconds -type flow_flags -type flow_state -type next_hop_mode -type mode -type interface_flags -type takes -type own_flags -type on_link_flags -type follow -type source_repair -type outcome -type protocol_class -type event -type table -type kind -type place -type bucket -type bucket_lock -type tail -type record -type sender -type learnt -type begun -type attempt -type hop -type trace_kind -type trace_form -type trace_event -type trace_request -type scratch Datapath src/replypath.c -- -O2 -g -Wall -Wextra -Werror -mcpu=v3 -fno-strict-aliasing -idirafter /usr/include/x86_64-linux-gnu
//go:generate go run ./internal/shapes shapes.go

const (
	// Control is the map of the variables by which user space tells the programs what to do: see src/maps.h.
	Control = ".data.control"
	// Scratch is the map of the programs' working memory, a DatapathScratch for each CPU: see src/scratch.h.
	Scratch = ".bss"
)

// Shared are the maps of variables that are pinned: all programs of a pin directory share them, and user space writes parts.
var Shared = []string{Control, Scratch}

// IsInternal tells of maps that hold constants of the programs: they are made with these, and not pinned.
func IsInternal(name string) bool { return name[0] == '.' && !slices.Contains(Shared, name) }

// Maps are those that are pinned, with the variables of Control.
type Maps struct {
	DatapathMaps
	ModeByHand    *ebpf.Variable `ebpf:"mode_by_hand"`
	Grace         *ebpf.Variable `ebpf:"grace"`
	TraceFilter   *ebpf.Variable `ebpf:"trace_filter"`
	Configuration *ebpf.Variable `ebpf:"configuration"`
}

// Use opens maps of these shapes once more.
func (m *Maps) Use(shapes map[string]*ebpf.MapSpec, maps map[string]*ebpf.Map) error {
	spec := &ebpf.CollectionSpec{Maps: shapes, Variables: Variables()}
	return spec.LoadAndAssign(m, &ebpf.CollectionOptions{MapReplacements: maps})
}
