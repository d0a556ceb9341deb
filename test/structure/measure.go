// SPDX-License-Identifier: Apache-2.0

// Package structure measures the product's packages by their types: how much a file needs of the other files, how
// much a type can change, and whether an import runs back up.
package structure

import (
	"fmt"
	"go/ast"
	"go/token"
	"go/types"
	"maps"
	"math"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/tools/go/packages"
)

// Package is what was measured of one package, test files and generated files left out.
type Package struct {
	Path    string // below the module
	Files   int
	Lines   int
	Refs    float64  // other files of the package that a file refers to, on average
	Cycle   int      // files in the largest cycle of references
	Upward  []string // references that run back up where the files stand in the order that has the fewest of them
	Mutable Type     // the one with the most fields that change after construction
	Methods Type     // the one with the most methods
	Imports []string
}

// Type is a type with the number that it was chosen for.
type Type struct {
	Name  string
	Count int
}

func (t Type) String() string {
	if t.Count == 0 {
		return "-"
	}
	return fmt.Sprintf("%s: %d", t.Name, t.Count)
}

const module = "replypath/"

// Measure measures the packages that match patterns, such as replypath/loader/... An error tells what does not compile.
func Measure(patterns ...string) ([]*Package, error) {
	loaded, err := packages.Load(&packages.Config{
		Mode: packages.NeedName | packages.NeedFiles | packages.NeedSyntax | packages.NeedTypes | packages.NeedTypesInfo |
			packages.NeedImports,
	}, patterns...)
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
	m := &Package{Path: strings.TrimPrefix(p.PkgPath, module)}
	for path := range p.Imports {
		if below, ok := strings.CutPrefix(path, module); ok {
			m.Imports = append(m.Imports, below)
		}
	}
	slices.Sort(m.Imports)
	var files []*ast.File
	for _, file := range p.Syntax {
		if !ast.IsGenerated(file) {
			files = append(files, file)
			m.Lines += p.Fset.File(file.Pos()).LineCount()
		}
	}
	m.Files = len(files)
	refs := references(p, files)
	count := 0
	for _, to := range refs {
		count += len(to)
	}
	if m.Files > 0 {
		m.Refs = float64(count) / float64(m.Files)
	}
	m.Cycle, m.Upward = largestCycle(refs), upward(refs)
	m.Mutable, m.Methods = largestTypes(p, files)
	return m
}

// references tells of each file to which other files of the package it refers: to their functions, types, methods,
// variables and constants. Fields count with the type that has them.
func references(p *packages.Package, files []*ast.File) map[string]map[string]bool {
	refs := make(map[string]map[string]bool)
	known := make(map[string]bool)
	for _, file := range files {
		known[nameOf(p.Fset, file.Pos())] = true
	}
	for _, file := range files {
		from := nameOf(p.Fset, file.Pos())
		refs[from] = make(map[string]bool)
		ast.Inspect(file, func(n ast.Node) bool {
			identifier, ok := n.(*ast.Ident)
			if !ok {
				return true
			}
			object := p.TypesInfo.Uses[identifier]
			if object == nil || object.Pkg() != p.Types {
				return true
			}
			if to := nameOf(p.Fset, object.Pos()); to != from && known[to] {
				refs[from][to] = true
			}
			return true
		})
	}
	return refs
}

func nameOf(files *token.FileSet, at token.Pos) string {
	return filepath.Base(files.Position(at).Filename)
}

// cycles returns the sets of several files that are strongly connected (Tarjan, "Depth-first search and linear graph
// algorithms", 1972).
func cycles(refs map[string]map[string]bool) [][]string {
	t := tarjan{refs: refs, index: make(map[string]int), low: make(map[string]int), open: make(map[string]bool)}
	for _, file := range slices.Sorted(maps.Keys(refs)) {
		if t.index[file] == 0 {
			t.visit(file)
		}
	}
	return t.cycles
}

// largestCycle returns the size of the largest of them, 0 where there is none.
func largestCycle(refs map[string]map[string]bool) int {
	largest := 0
	for _, cycle := range cycles(refs) {
		largest = max(largest, len(cycle))
	}
	return largest
}

type tarjan struct {
	refs       map[string]map[string]bool
	index, low map[string]int // from 1
	open       map[string]bool
	stack      []string
	cycles     [][]string
}

func (t *tarjan) visit(file string) {
	t.index[file] = len(t.index) + 1
	t.low[file] = t.index[file]
	t.stack, t.open[file] = append(t.stack, file), true
	for _, to := range slices.Sorted(maps.Keys(t.refs[file])) {
		if t.index[to] == 0 {
			t.visit(to)
			t.low[file] = min(t.low[file], t.low[to])
		} else if t.open[to] {
			t.low[file] = min(t.low[file], t.index[to])
		}
	}
	if t.low[file] != t.index[file] {
		return
	}
	begin := slices.Index(t.stack, file)
	for _, done := range t.stack[begin:] {
		t.open[done] = false
	}
	if cycle := slices.Clone(t.stack[begin:]); len(cycle) > 1 {
		t.cycles = append(t.cycles, cycle)
	}
	t.stack = t.stack[:begin]
}

// upward orders the files of each cycle, the lowest first, so that the fewest references run back up, and returns those.
func upward(refs map[string]map[string]bool) []string {
	var all []string
	for _, files := range cycles(refs) {
		order := orderOf(files, refs)
		for place, from := range order {
			for _, to := range order[place+1:] {
				if refs[from][to] {
					all = append(all, from+" -> "+to)
				}
			}
		}
	}
	return all
}

// orderOf looks at every set of the files that may stand below the others: there are 2^n of them, of a cycle of n files.
func orderOf(files []string, refs map[string]map[string]bool) []string {
	sets := 1 << len(files)
	fewest, top := make([]int, sets), make([]int, sets)
	for set := 1; set < sets; set++ {
		fewest[set] = math.MaxInt
		for i, file := range files {
			if set>>i&1 == 0 {
				continue
			}
			below := set &^ (1 << i)
			count := fewest[below]
			for j, other := range files {
				if below>>j&1 == 1 && refs[other][file] {
					count++
				}
			}
			if count < fewest[set] {
				fewest[set], top[set] = count, i
			}
		}
	}
	order := make([]string, 0, len(files))
	for set := sets - 1; set > 0; set &^= 1 << top[set] {
		order = append(order, files[top[set]])
	}
	slices.Reverse(order)
	return order
}

// largestTypes returns the types with the most fields that change after construction, and with the most methods.
func largestTypes(p *packages.Package, files []*ast.File) (mutable, methods Type) {
	changed := changedFields(p, files)
	scope := p.Types.Scope()
	for _, name := range scope.Names() {
		named, ok := scope.Lookup(name).Type().(*types.Named)
		if _, isType := scope.Lookup(name).(*types.TypeName); !ok || !isType {
			continue
		}
		if n := named.NumMethods(); n > methods.Count {
			methods = Type{name, n}
		}
		fields, ok := named.Underlying().(*types.Struct)
		if !ok {
			continue
		}
		n := 0
		for field := range fields.Fields() {
			if changed[field] {
				n++
			}
		}
		if n > mutable.Count {
			mutable = Type{name, n}
		}
	}
	return mutable, methods
}

// changedFields are those that some function assigns to, takes the address of, or calls a method of that may change
// them, but for functions that make a value of the type.
func changedFields(p *packages.Package, files []*ast.File) map[*types.Var]bool {
	changed := make(map[*types.Var]bool)
	for _, file := range files {
		for _, declaration := range file.Decls {
			function, ok := declaration.(*ast.FuncDecl)
			if !ok || function.Body == nil {
				continue
			}
			made := madeBy(p, function)
			ast.Inspect(function.Body, func(n ast.Node) bool {
				for _, target := range targets(n) {
					if field, owner := fieldOf(p, target); field != nil && !made[owner] {
						changed[field] = true
					}
				}
				return true
			})
		}
	}
	return changed
}

// targets are the expressions that a statement or an expression changes.
func targets(n ast.Node) []ast.Expr {
	switch n := n.(type) {
	case *ast.AssignStmt:
		return n.Lhs
	case *ast.IncDecStmt:
		return []ast.Expr{n.X}
	case *ast.UnaryExpr:
		if n.Op == token.AND {
			return []ast.Expr{n.X}
		}
	}
	return nil
}

// fieldOf returns the field that an expression leads to, nil for none, and the type that has it.
func fieldOf(p *packages.Package, target ast.Expr) (*types.Var, *types.Named) {
	for {
		switch e := target.(type) {
		case *ast.ParenExpr:
			target = e.X
		case *ast.IndexExpr:
			target = e.X
		case *ast.SelectorExpr:
			selection := p.TypesInfo.Selections[e]
			if selection == nil || selection.Kind() != types.FieldVal {
				return nil, nil
			}
			field, _ := selection.Obj().(*types.Var)
			return field, namedOf(selection.Recv())
		default:
			return nil, nil
		}
	}
}

func namedOf(t types.Type) *types.Named {
	if pointer, ok := t.(*types.Pointer); ok {
		t = pointer.Elem()
	}
	named, _ := t.(*types.Named)
	return named
}

// madeBy are the types that a function makes values of.
func madeBy(p *packages.Package, function *ast.FuncDecl) map[*types.Named]bool {
	made := make(map[*types.Named]bool)
	ast.Inspect(function.Body, func(n ast.Node) bool {
		if literal, ok := n.(*ast.CompositeLit); ok {
			if named := namedOf(p.TypesInfo.TypeOf(literal)); named != nil {
				made[named] = true
			}
		}
		return true
	})
	return made
}
