// SPDX-License-Identifier: Apache-2.0

package guide

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"strconv"
	"testing"

	"replypath/test/await"
)

// others are commands of recipes that the tests of their networks do not run, and which test is there instead.
var others = map[string]string{
	"systemctl enable --now replypath":  "TestPages runs it, for the roll-out",
	"iperf3 --server --bind 10.4.0.100": "TestConnectedWildcard asks a socket that is bound so",
}

// sources are the files of the test packages.
type sources []*source

// source is what a file has: its strings, the names that it uses, and, of its package, the strings in the declaration
// of each name.
type source struct {
	strings, names map[string]bool
	declared       map[string]map[string]bool
}

// readTests reads the files of all test packages.
func readTests(t *testing.T) sources {
	t.Helper()
	declared := make(map[string]map[string]map[string]bool) // by directory
	var all sources
	for _, path := range await.Must1[[]string](t)(filepath.Glob("../*/*_test.go")) {
		dir := filepath.Dir(path)
		if dir == "../guide" {
			continue
		}
		if declared[dir] == nil {
			declared[dir] = make(map[string]map[string]bool)
		}
		file := await.Must1[*ast.File](t)(parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution))
		s := &source{declared: declared[dir]}
		s.strings, s.names = wordsOf(file)
		for name, node := range declarations(file) {
			s.declared[name], _ = wordsOf(node)
		}
		all = append(all, s)
	}
	return all
}

// wordsOf returns the strings and the names in a part of a file.
func wordsOf(part ast.Node) (texts, names map[string]bool) {
	texts, names = make(map[string]bool), make(map[string]bool)
	ast.Inspect(part, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.BasicLit:
			if text, err := strconv.Unquote(n.Value); err == nil && n.Kind == token.STRING {
				texts[text] = true
			}
		case *ast.Ident:
			names[n.Name] = true
		}
		return true
	})
	return texts, names
}

// declarations are the functions and constants of a file.
func declarations(file *ast.File) map[string]ast.Node {
	found := make(map[string]ast.Node)
	for _, d := range file.Decls {
		switch d := d.(type) {
		case *ast.FuncDecl:
			if d.Recv == nil {
				found[d.Name.Name] = d
			}
		case *ast.GenDecl:
			for _, spec := range d.Specs {
				if values, ok := spec.(*ast.ValueSpec); ok {
					for _, name := range values.Names {
						found[name.Name] = values
					}
				}
			}
		}
	}
	return found
}

// run tells whether some file reads a recipe and names one of its sections.
func (all sources) run(recipe, section string) bool {
	for _, s := range all {
		if s.strings[section] && s.reads(recipe) {
			return true
		}
	}
	return false
}

// reads tells whether a file names a recipe, or a constant or function that does.
func (s *source) reads(recipe string) bool {
	if s.strings[recipe] {
		return true
	}
	for name := range s.names {
		if s.declared[name][recipe] {
			return true
		}
	}
	return false
}
