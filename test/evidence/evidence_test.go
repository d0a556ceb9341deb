// SPDX-License-Identifier: Apache-2.0

package main

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"replypath/test/await"
	"replypath/test/evidence/promise"
)

// root of the source tree.
const root = "../.."

func promises(t *testing.T) []promise.Group {
	t.Helper()
	groups, err := promise.Read("promises.yaml")
	await.Must(t, err)
	return groups
}

// TestPromises: each has an id of its own, a short sentence and a test.
func TestPromises(t *testing.T) {
	kebab := regexp.MustCompile(`^[a-z0-9]+(-[a-z0-9]+)*$`)
	const mostWords = 20
	seen := make(map[string]bool)
	for _, g := range promises(t) {
		for _, p := range g.Promises {
			if !kebab.MatchString(p.ID) || seen[p.ID] {
				t.Errorf("%q is no id in kebab-case, or there are two", p.ID)
			}
			seen[p.ID] = true
			if words := len(strings.Fields(p.Promise)); words > mostWords || !strings.HasSuffix(p.Promise, ".") {
				t.Errorf("%s has %d words, more than %d, or is no sentence: %s", p.ID, words, mostWords, p.Promise)
			}
			if len(p.Tests) == 0 {
				t.Errorf("%s has no test", p.ID)
			}
		}
	}
}

// tested is what the source says of the tests of a package.
type tested struct{ tests, literals map[string]bool }

// testsOf reads the test files of a package. Files of test data count as literals: tests are named by them.
func testsOf(t *testing.T, pkg string) *tested {
	t.Helper()
	found := &tested{make(map[string]bool), make(map[string]bool)}
	names, err := filepath.Glob(filepath.Join(root, pkg, "*_test.go"))
	await.Must(t, err)
	for _, name := range names {
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.SkipObjectResolution)
		await.Must(t, err)
		ast.Inspect(file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.FuncDecl:
				found.tests[n.Name.Name] = n.Recv == nil
			case *ast.BasicLit:
				if text, err := strconv.Unquote(n.Value); err == nil {
					found.literals[strings.ReplaceAll(text, " ", "_")] = true
				}
			}
			return true
		})
	}
	data, err := filepath.Glob(filepath.Join(root, pkg, "testdata", "*"))
	await.Must(t, err)
	for _, name := range data {
		found.literals[strings.TrimSuffix(filepath.Base(name), filepath.Ext(name))] = true
	}
	return found
}

// measures are figures that `make bench-tables` measures, of which nothing is promised yet.
const measures = "test/bigtables"

// TestTestsExist: each test that is named is there, and each package of tests below bpf and test is named.
func TestTestsExist(t *testing.T) {
	packages := make(map[string]*tested)
	for _, g := range promises(t) {
		for _, p := range g.Promises {
			for _, name := range p.Tests {
				if packages[name.Package] == nil {
					packages[name.Package] = testsOf(t, name.Package)
				}
				names := strings.Split(name.Name, "/")
				if !packages[name.Package].tests[names[0]] {
					t.Errorf("%s: there is no test %s", p.ID, name)
				}
				for _, sub := range names[1:] {
					if !packages[name.Package].literals[sub] {
						t.Errorf("%s: whether %s has a subtest %q is not known: name the test alone", p.ID, name, sub)
					}
				}
			}
		}
	}
	for _, parent := range []string{"bpf", "test"} {
		for _, pkg := range packagesBelow(t, parent) {
			if packages[pkg] == nil && pkg != measures {
				t.Errorf("no promise names a test of %s", pkg)
			}
		}
	}
}

// packagesBelow are those with tests.
func packagesBelow(t *testing.T, parent string) (all []string) {
	t.Helper()
	err := fs.WalkDir(os.DirFS(root), parent, func(path string, entry fs.DirEntry, err error) error {
		if strings.HasSuffix(path, "_test.go") {
			all = append(all, filepath.Dir(path))
		}
		return err
	})
	await.Must(t, err)
	slices.Sort(all)
	return slices.Compact(all)
}

// TestPageIsCurrent: the page that is committed has the promises of today, whatever run it shows.
func TestPageIsCurrent(t *testing.T) {
	committed, err := os.ReadFile(filepath.Join(root, "docs/EVIDENCE.md"))
	await.Must(t, err)
	today, err := render(promises(t), newResults(), run{})
	await.Must(t, err)
	got, want := skeleton(string(committed)), skeleton(today)
	for i, line := range want {
		if i >= len(got) || got[i] != line {
			t.Fatalf("docs/EVIDENCE.md does not have the promises of test/evidence/promises.yaml: %s\nfirst missing: %s", remedy, line)
		}
	}
	if len(got) > len(want) {
		t.Errorf("docs/EVIDENCE.md has more than the promises of test/evidence/promises.yaml: %s", remedy)
	}
}
