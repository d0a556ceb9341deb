// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"fmt"
	"os"
	"regexp"
	"strings"

	"go.yaml.in/yaml/v3"
)

// group is a section of the page.
type group struct {
	Title    string
	About    string // a sentence below the title, or ""
	Promises []promise
}

// promise is what an operator or maintainer may rely on.
type promise struct {
	ID      string // the anchor that other pages link to
	Promise string
	Tests   []testName
	Figures string // a regular expression of what is shown of logged lines; all, where it is empty
	figures *regexp.Regexp
}

// testName names a test by its package below the module: "test/faults TestFaults/carrier_lost" in the file.
type testName struct{ Package, Name string }

func (n testName) String() string { return n.Package + " " + n.Name }

// UnmarshalText reads a name as it stands in the file.
func (n *testName) UnmarshalText(text []byte) error {
	fields := strings.Fields(string(text))
	if len(fields) != 2 {
		return fmt.Errorf("%q is no package and test: write \"test/faults TestFaults\"", text)
	}
	n.Package, n.Name = fields[0], fields[1]
	return nil
}

// readPromises reads the file; an error names what is wrong with it.
func readPromises(name string) ([]group, error) {
	text, err := os.ReadFile(name)
	if err != nil {
		return nil, fmt.Errorf("read promises: %w", err)
	}
	var groups []group
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	decoder.KnownFields(true)
	if err := decoder.Decode(&groups); err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	for _, g := range groups {
		for i := range g.Promises {
			p := &g.Promises[i]
			if p.figures, err = regexp.Compile(p.Figures); err != nil {
				return nil, fmt.Errorf("read %s: figures of %s: %w", name, p.ID, err)
			}
		}
	}
	return groups, nil
}
