// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestConstructors: a finding is made by the constructors alone, and none that is a problem with nothing to say of what
// to do. Its fix is made of replypath's own.
func TestConstructors(t *testing.T) {
	names, err := filepath.Glob("*/*.go")
	if err != nil {
		t.Fatal(err)
	}
	files, calls := token.NewFileSet(), 0
	for _, name := range names {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(files, name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.CompositeLit:
				if isNamed(n.Type, "Finding") && len(n.Elts) > 0 && name != "finding/finding.go" {
					t.Errorf("%s: a finding that no constructor has made", files.Position(n.Pos()))
				}
			case *ast.CallExpr:
				if !isNamed(n.Fun, "Problem") && !isNamed(n.Fun, "Seen") {
					break
				}
				calls++
				last, ok := n.Args[len(n.Args)-1].(*ast.BasicLit)
				if ok && last.Value == `""` {
					t.Errorf("%s: a problem without a remedy", files.Position(n.Pos()))
				}
				if isNamed(n.Fun, "Problem") && !isOwn(n.Args[len(n.Args)-1]) && name != "finding/finding.go" {
					t.Errorf("%s: a fix that is none of replypath's own", files.Position(n.Pos()))
				}
			}
			return true
		})
	}
	if calls == 0 {
		t.Error("no call was looked at")
	}
}

// isOwn tells an expression that calls what makes a fix of replypath's configuration or its commands.
func isOwn(e ast.Expr) bool {
	call, ok := e.(*ast.CallExpr)
	if !ok {
		return false
	}
	return slices.ContainsFunc([]string{"Configure", "ConfigureInterface", "UnconfigureGateway", "Start",
		"StartAgain", "Reload", "Rename", "Enforce", "Try", "mount", "runAtUsual"}, func(name string) bool { return isNamed(call.Fun, name) })
}

// isNamed tells an identifier, of this package or another.
func isNamed(e ast.Expr, name string) bool {
	if selector, ok := e.(*ast.SelectorExpr); ok {
		e = selector.Sel
	}
	identifier, ok := e.(*ast.Ident)
	return ok && identifier.Name == name
}
