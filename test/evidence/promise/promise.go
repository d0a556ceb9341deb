// SPDX-License-Identifier: Apache-2.0

// Package promise reads what is promised, and by which tests it is shown.
package promise

import (
	"bytes"
	"fmt"
	"os"
	"regexp"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Group is a section of the page.
type Group struct {
	Title    string
	About    string // a sentence below the title, or ""
	Promises []Promise
}

// Promise is what an operator or maintainer may rely on.
type Promise struct {
	ID      string // the anchor that other pages link to
	Promise string
	Tests   []Test // `make test` runs the first, `make test-all` all
	Needs   string // Debian packages beyond test/packages.txt that each of the tests needs: `make test` shows nothing then
	Figures string // a regular expression of what is shown of logged lines; all, where it is empty

	Shown *regexp.Regexp `yaml:"-"` // Figures, compiled
}

// Test names a test by its package below the module: "test/faults TestFaults/carrier_lost" in the file.
type Test struct{ Package, Name string }

func (n Test) String() string { return n.Package + " " + n.Name }

// UnmarshalText reads a name as it stands in the file.
func (n *Test) UnmarshalText(text []byte) error {
	fields := strings.Fields(string(text))
	if len(fields) != 2 {
		return fmt.Errorf("%q is no package and test: write \"test/faults TestFaults\"", text)
	}
	n.Package, n.Name = fields[0], fields[1]
	return nil
}

// Read reads the file; an error names what is wrong with it.
func Read(name string) ([]Group, error) {
	text, err := os.ReadFile(name)
	if err != nil {
		return nil, fmt.Errorf("read promises: %w", err)
	}
	var groups []Group
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	decoder.KnownFields(true)
	if err := decoder.Decode(&groups); err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	for _, g := range groups {
		for i := range g.Promises {
			p := &g.Promises[i]
			if p.Shown, err = regexp.Compile(p.Figures); err != nil {
				return nil, fmt.Errorf("read %s: figures of %s: %w", name, p.ID, err)
			}
		}
	}
	return groups, nil
}

// Quick returns the tests that show each promise once, without what needs further packages.
func Quick(groups []Group) []Test {
	var all []Test
	for _, g := range groups {
		for _, p := range g.Promises {
			if p.Needs == "" {
				all = append(all, p.Tests[0])
			}
		}
	}
	return all
}
