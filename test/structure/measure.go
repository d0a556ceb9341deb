// SPDX-License-Identifier: Apache-2.0

// Package structure measures the product's packages: how much they hold, and whether an import runs back up.
package structure

import (
	"fmt"
	"go/ast"
	"slices"
	"strings"

	"golang.org/x/tools/go/packages"
)

// Package is what was measured of one package, test files and generated files left out.
type Package struct {
	Path    string // below the module
	Files   int
	Lines   int
	Methods map[string]int // by the type that has them
	Imports []string
}

const module = "replypath/"

// Measure measures the packages that match patterns, such as replypath/loader/... An error tells what does not compile.
func Measure(patterns ...string) ([]*Package, error) {
	const mode = packages.NeedName | packages.NeedFiles | packages.NeedSyntax | packages.NeedImports
	loaded, err := packages.Load(&packages.Config{Mode: mode}, patterns...)
	if err != nil {
		return nil, fmt.Errorf("load %s: %w", strings.Join(patterns, " "), err)
	}
	var measured []*Package
	for _, p := range loaded {
		if len(p.Errors) > 0 {
			return nil, fmt.Errorf("load %s: %w", p.PkgPath, p.Errors[0])
		}
		measured = append(measured, measure(p))
	}
	slices.SortFunc(measured, func(a, b *Package) int { return strings.Compare(a.Path, b.Path) })
	return measured, nil
}

func measure(p *packages.Package) *Package {
	m := &Package{Path: strings.TrimPrefix(p.PkgPath, module), Methods: make(map[string]int)}
	for path := range p.Imports {
		if below, ok := strings.CutPrefix(path, module); ok {
			m.Imports = append(m.Imports, below)
		}
	}
	for _, file := range p.Syntax {
		if ast.IsGenerated(file) {
			continue
		}
		m.Files++
		m.Lines += p.Fset.File(file.Pos()).LineCount()
		for _, declaration := range file.Decls {
			if function, ok := declaration.(*ast.FuncDecl); ok && function.Recv != nil {
				m.Methods[receiver(function.Recv.List[0].Type)]++
			}
		}
	}
	return m
}

// receiver is the name of the type that has a method.
func receiver(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.StarExpr:
		return receiver(e.X)
	case *ast.IndexExpr:
		return receiver(e.X)
	case *ast.Ident:
		return e.Name
	}
	return ""
}
