// SPDX-License-Identifier: Apache-2.0

package main

import (
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

// testsOf is the text of the test files of a package, and the names of its files of test data, by which subtests are named.
func testsOf(t *testing.T, pkg string) (text string) {
	t.Helper()
	for _, name := range await.Must1[[]string](t)(filepath.Glob(filepath.Join(root, pkg, "*_test.go"))) {
		text += string(await.Must1[[]byte](t)(os.ReadFile(name)))
	}
	for _, name := range await.Must1[[]string](t)(filepath.Glob(filepath.Join(root, pkg, "testdata", "*"))) {
		text += strconv.Quote(strings.TrimSuffix(filepath.Base(name), filepath.Ext(name)))
	}
	return text
}

// measures are figures that `make bench-tables` measures, of which nothing is promised yet.
const measures = "test/bench/bigtables"

// TestTestsExist: each test that is named is there, and each package of tests below bpf and test is named.
func TestTestsExist(t *testing.T) {
	packages := make(map[string]string)
	for _, g := range promises(t) {
		for _, p := range g.Promises {
			for _, name := range p.Tests {
				if packages[name.Package] == "" {
					packages[name.Package] = testsOf(t, name.Package)
				}
				names := strings.Split(name.Name, "/")
				if !strings.Contains(packages[name.Package], "func "+names[0]+"(t *testing.T)") {
					t.Errorf("%s: there is no test %s", p.ID, name)
				}
				for _, sub := range names[1:] {
					isLiteral := func(text string) bool { return strings.Contains(packages[name.Package], strconv.Quote(text)) }
					if !isLiteral(sub) && !isLiteral(strings.ReplaceAll(sub, "_", " ")) {
						t.Errorf("%s: whether %s has a subtest %q is not known: name the test alone", p.ID, name, sub)
					}
				}
			}
		}
	}
	for _, parent := range []string{"bpf", "test"} {
		for _, pkg := range packagesBelow(t, parent) {
			if packages[pkg] == "" && pkg != measures {
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

// TestPageIsCurrent: the page that is committed has the promises of today.
func TestPageIsCurrent(t *testing.T) {
	committed, err := os.ReadFile(filepath.Join(root, "docs/EVIDENCE.md"))
	await.Must(t, err)
	today, err := summarize(promises(t))
	await.Must(t, err)
	await.Same(t, "docs/EVIDENCE.md is not what the promises say: go generate ./test/evidence", today, string(committed))
}
