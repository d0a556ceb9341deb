// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"replypath/test/evidence/golog"
	"replypath/test/evidence/promise"
)

// kernel is what the tests have printed on another kernel, in a virtual machine (make test-kernels).
type kernel struct {
	version string
	*results
}

// readKernels reads the logs of test-kernels, build/kernels/VERSION/SUITE.log; there need not be any.
func readKernels(dir string, groups []promise.Group) ([]kernel, error) {
	names, err := filepath.Glob(filepath.Join(dir, "*", "*.log"))
	if err != nil {
		return nil, fmt.Errorf("find logs of other kernels: %w", err)
	}
	var kernels []kernel
	for _, name := range names {
		version := filepath.Base(filepath.Dir(name))
		if len(kernels) == 0 || kernels[len(kernels)-1].version != version {
			kernels = append(kernels, kernel{version, newResults()})
		}
		text, err := os.ReadFile(name)
		if err != nil {
			return nil, fmt.Errorf("read log of another kernel: %w", err)
		}
		kernels[len(kernels)-1].readSuite(string(text), groups)
	}
	return kernels, nil
}

// readSuite reads the log of one package's test binary, which does not say which package that is: the one that the
// promises name most of its tests of.
func (r *results) readSuite(log string, groups []promise.Group) {
	s := golog.Read(log)
	named := make(map[string]int)
	for _, g := range groups {
		for _, p := range g.Promises {
			for _, test := range p.Tests {
				if s.Has(test.Name) {
					named[test.Package]++
				}
			}
		}
	}
	pkg, most := "", 0
	for name, count := range named {
		if count > most || count == most && name < pkg {
			pkg, most = name, count
		}
	}
	if pkg != "" {
		r.add(pkg, s)
	}
}

// elsewhere returns the kernels on which a test has ended so.
func (r *results) elsewhere(test promise.Test, result int) (on []kernel) {
	for _, k := range r.kernels {
		if got, _, _ := k.of(test); got == result {
			on = append(on, k)
		}
	}
	return on
}

// versions names kernels.
func versions(on []kernel) string {
	var names []string
	for _, k := range on {
		names = append(names, k.version)
	}
	slices.Sort(names)
	return "Linux " + strings.Join(names, ", ")
}
