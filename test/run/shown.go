// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"replypath/test/short"
)

// noteShown writes down what a full run need not repeat: packages that ran whole, and tests of others, unless something
// of them was left out because the run was a quick one.
func (r *report) noteShown(jobs []*job) error {
	var lines strings.Builder
	for _, j := range jobs {
		for _, pkg := range j.packages {
			r.packages[pkg+j.part].noteShown(&lines, pkg, j.tests)
		}
	}
	if err := os.WriteFile(filepath.Join(r.logs, shownName), []byte(lines.String()), 0o644); err != nil {
		return fmt.Errorf("note what was shown: %w", err)
	}
	return nil
}

func (p *tested) noteShown(lines *strings.Builder, pkg string, tests []string) {
	if p == nil {
		return // it has no tests for this machine
	}
	reduced := make(map[string]bool) // by the name of the whole test
	for name, t := range p.tests {
		if slices.ContainsFunc(t.output, func(line string) bool { return strings.Contains(line, short.Reason) }) {
			top, _, _ := strings.Cut(name, "/")
			reduced[top] = true
		}
	}
	if len(tests) == 0 && len(reduced) == 0 {
		fmt.Fprintln(lines, pkg)
		return
	}
	for name := range p.tests {
		isWhole := !strings.Contains(name, "/") && (len(tests) == 0 || slices.Contains(tests, name))
		if isWhole && !reduced[name] {
			fmt.Fprintln(lines, pkg, name)
		}
	}
}
