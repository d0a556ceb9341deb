// SPDX-License-Identifier: Apache-2.0

// Package guide runs the commands of README, guide and the other pages that users read, in the order of each page, on
// the host that the page speaks of. A page or a command that no test runs fails. Recipes are run by the tests of their
// networks; that is looked up.
package guide

import (
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"replypath/test/await"
	testhost "replypath/test/host"
	"replypath/test/product"
	"replypath/test/short"
)

// checkout is where the pages are, seen from here.
const checkout = "../.."

// globs are the pages that users read.
var globs = []string{
	"README.md", "CONTRIBUTING.md", "SECURITY.md", "docs/guide/*.md", "docs/recipes/*.md", "docs/guide/recipes/*.md",
}

// pages returns what matches the globs, below the checkout.
func pages(t *testing.T) []string {
	t.Helper()
	var found []string
	for _, glob := range globs {
		for _, path := range await.Must1[[]string](t)(filepath.Glob(filepath.Join(checkout, glob))) {
			found = append(found, await.Must1[string](t)(filepath.Rel(checkout, path)))
		}
	}
	if len(found) < 10 {
		t.Fatalf("only %d pages match %q", len(found), globs)
	}
	return found
}

func read(t *testing.T, name string) string {
	t.Helper()
	return string(await.Must1[[]byte](t)(os.ReadFile(filepath.Join(checkout, name))))
}

func isRecipe(name string) bool { return filepath.Base(filepath.Dir(name)) == "recipes" }

// TestPages runs the commands of every page on its host.
func TestPages(t *testing.T) {
	if short.Run(t) || os.Geteuid() != 0 {
		t.Skip("left out by -short; namespaces need root")
	}
	for _, name := range pages(t) {
		if run := runners[name]; run != nil {
			t.Run(name, func(t *testing.T) {
				p := openPage(t, name)
				run(t, p)
				p.wantAllRun()
			})
		}
	}
}

// TestEachBlockHasARunner: what a page has the reader type is run by TestPages, or, of a recipe, by the test of its
// network.
func TestEachBlockHasARunner(t *testing.T) {
	sources := readTests(t)
	all := pages(t)
	for _, name := range all {
		blocks := slices.DeleteFunc(testhost.Blocks(read(t, name)), func(b testhost.Block) bool { return !b.Typed() })
		switch {
		case isRecipe(name):
			recipe := strings.TrimSuffix(filepath.Base(name), ".md")
			for _, b := range blocks {
				if b.Language == "console" {
					t.Errorf("%s:%d: commands of recipes are in sh blocks: harness.Recipe runs no others", name, b.Line)
				}
				if _, known := others[strings.TrimSpace(b.Text)]; !known && !sources.run(recipe, b.Section) {
					t.Errorf("%s:%d: no test runs the commands of section %q: run them by harness.ReadRecipe(t, %q).Run in the test of the recipe's network",
						name, b.Line, b.Section, recipe)
				}
			}
		case len(blocks) > 0 && runners[name] == nil:
			t.Errorf("%s:%d: no test runs these commands: add the page to runners in test/guide/runners_test.go", name, blocks[0].Line)
		case len(blocks) == 0 && runners[name] != nil:
			t.Errorf("%s has no commands: remove it from runners in test/guide/runners_test.go", name)
		}
	}
	for name := range runners {
		if !slices.Contains(all, name) {
			t.Errorf("there is no page %s: remove it from runners in test/guide/runners_test.go", name)
		}
	}
}

// languages are those that a fence may have. Commands are sh or console: they are run.
var languages = []string{"sh", "console", "text", "yaml", "nft", "ini", "interfaces", "c", "go"}

// TestFences: the language of each fence tells whether it is typed.
func TestFences(t *testing.T) {
	for _, name := range pages(t) {
		for _, b := range testhost.Blocks(read(t, name)) {
			bare := b.Language == "" && isRecipe(name) // pictures of networks
			if !bare && !slices.Contains(languages, b.Language) {
				t.Errorf("%s:%d: the language of the fence is %q, none of %q", name, b.Line, b.Language, languages)
			}
		}
	}
}

// TestMain makes namespaces only where commands are run.
func TestMain(m *testing.M) {
	flag.Parse()
	if testing.Short() || os.Geteuid() != 0 {
		os.Exit(m.Run())
	}
	product.Main(m)
}
