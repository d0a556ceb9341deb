// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"text/tabwriter"

	"github.com/cilium/ebpf"

	benchmarks "replypath/test/bench/report"
)

// report is everything that one call of the program found out.
type report struct {
	Machine benchmarks.Machine `json:"machine"`
	Repeat  uint               `json:"repeat"`
	Rounds  uint               `json:"rounds"`
	Slower  float64            `json:"slower,omitempty"` // by what the bounds are multiplied; 0: the medians are held against them
	// Reference is what the first case costs where the bounds are from, in nanoseconds.
	Reference float64       `json:"reference_cost"`
	Results   []result      `json:"results"`
	Programs  []programSize `json:"programs"`
}

// programSize is what the verifier and the JIT made of one program.
type programSize struct {
	Name       string `json:"name"`
	Verified   uint32 `json:"verified_instructions"` // walked by the verifier
	Bound      uint32 `json:"bound"`                 // of these
	Translated int    `json:"translated_bytes"`
	JITed      uint32 `json:"jited_bytes"`
}

// sizes looks up every program of the datapath.
func (b *bench) sizes() ([]programSize, error) {
	d := b.datapath
	var sizes []programSize
	for _, p := range []struct {
		name    string
		program *ebpf.Program
		bound   uint32 // more than on Linux 6.18, by a twelfth to a quarter
	}{
		{"replypath_ingress", d.ReplypathIngress, 108_000},
		{"replypath_egress", d.ReplypathEgress, 172_000},
		{"replypath_ingress_l3", d.ReplypathIngressL3, 112_000},
		{"replypath_egress_l3", d.ReplypathEgressL3, 146_000},
		{"replypath_send", d.ReplypathSend, 33},
		{"replypath_fallback", d.ReplypathFallback, 4_300},
		{"replypath_held", d.ReplypathHeld, 4_300},
		{"replypath_sendmsg4", d.ReplypathSendmsg4, 1_560},
		{"replypath_sendmsg6", d.ReplypathSendmsg6, 1_620},
		{"replypath_clock", d.ReplypathClock, 4},
	} {
		info, err := p.program.Info()
		if err != nil {
			return nil, fmt.Errorf("look up %s: %w", p.name, err)
		}
		size := programSize{Name: p.name, Bound: p.bound}
		size.Verified, _ = info.VerifiedInstructions() // 0 before 5.16
		if size.Translated, err = info.TranslatedSize(); err != nil {
			return nil, fmt.Errorf("look up %s: %w", p.name, err)
		}
		if size.JITed, err = info.JitedSize(); err != nil {
			return nil, fmt.Errorf("look up %s: %w", p.name, err)
		}
		sizes = append(sizes, size)
	}
	return sizes, nil
}

// write prints tables, and JSON to a file if it has a name.
func (r *report) write(w io.Writer, file string) error {
	if err := r.print(w); err != nil {
		return err
	}
	if file == "" {
		return nil
	}
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("encode results: %w", err)
	}
	if err := os.WriteFile(file, append(data, '\n'), 0o644); err != nil {
		return fmt.Errorf("write results: %w", err)
	}
	return nil
}

func (r *report) print(w io.Writer) error {
	fmt.Fprintf(w, "kernel %s, %s, %d runs, median of %d\n", r.Machine.Kernel, r.Machine.CPU, r.Repeat, r.Rounds)
	if r.Slower != 0 {
		fmt.Fprintf(w, "%.2f times as slow as where the bounds are from: they are raised by that, and the quiet cost counts\n", r.Slower)
	}
	fmt.Fprintln(w)
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "CASE\tNS OVER EMPTY\tQUIET\tMIN\tMAX\tBOUND\tEMPTY\t")
	for _, result := range r.Results {
		bound, verdict := "-", ""
		if result.Bound != 0 {
			bound = strconv.FormatFloat(result.Bound, 'f', 0, 64)
		}
		if result.exceeds(r.Slower != 0) {
			verdict = "exceeded"
		}
		fmt.Fprintf(table, "%s\t%.1f\t%.1f\t%.1f\t%.1f\t%s\t%.1f\t%s\n", result.Name, result.Median,
			result.Quiet, result.Min, result.Max, bound, result.Baseline, verdict)
	}
	fmt.Fprintln(table, "\nPROGRAM\tVERIFIED INSTRUCTIONS\tBOUND\tTRANSLATED BYTES\tJITED BYTES")
	for _, p := range r.Programs {
		fmt.Fprintf(table, "%s\t%d\t%d\t%d\t%d\n", p.Name, p.Verified, p.Bound, p.Translated, p.JITed)
	}
	return table.Flush()
}

// exceeded is an error that names the cases beyond their bounds.
func (r *report) exceeded() error {
	var errs []error
	for _, result := range r.Results {
		if result.exceeds(r.Slower != 0) {
			errs = append(errs, fmt.Errorf("%s: %.1f ns over an empty program, bound %.0f",
				result.Name, result.held(r.Slower != 0), result.Bound))
		}
	}
	for _, p := range r.Programs {
		if p.Verified > p.Bound {
			errs = append(errs, fmt.Errorf("%s: the verifier looked at %d instructions, bound %d", p.Name, p.Verified, p.Bound))
		}
	}
	return errors.Join(errs...)
}
