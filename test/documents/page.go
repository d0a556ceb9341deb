// SPDX-License-Identifier: Apache-2.0

// Package documents holds what the pages of the repository are held to: links that lead somewhere, commands, keys and
// metrics that exist, and sizes that a reader can take in. Their prose is checked by vale (make lint-docs).
package documents

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/yuin/goldmark"
	"github.com/yuin/goldmark/ast"
	"github.com/yuin/goldmark/extension"
	east "github.com/yuin/goldmark/extension/ast"
	"github.com/yuin/goldmark/text"
)

// Page is a Markdown file of the repository.
type Page struct {
	Path   string // from the root of the repository
	source []byte
	root   ast.Node
}

// Piece is a part of a page with the line where it begins.
type Piece struct {
	Line int
	Text string
}

// Fence is a code block.
type Fence struct {
	Piece
	Language string // "" where the page names none
}

// Cell is a cell of a table.
type Cell struct {
	Piece
	Column int
	Names  []string // its code spans
}

// Table is a table of a page, with the words of its header.
type Table struct {
	Header []string
	Rows   [][]Cell
}

var markdown = goldmark.New(goldmark.WithExtensions(extension.GFM))

// top are the pages that lie beside docs.
var top = []string{"README.md", "CONTRIBUTING.md", "SECURITY.md", "CODE_OF_CONDUCT.md"}

// Pages reads the pages below root, the repository's directory. CHANGELOG.md is none: it tells what was.
func Pages(root string) ([]*Page, error) {
	paths := slices.Clone(top)
	err := filepath.WalkDir(filepath.Join(root, "docs"), func(path string, entry fs.DirEntry, err error) error {
		if err == nil && !entry.IsDir() && filepath.Ext(path) == ".md" {
			path, err = filepath.Rel(root, path)
			paths = append(paths, path)
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("look for pages: %w", err)
	}
	var pages []*Page
	for _, path := range paths {
		source, err := os.ReadFile(filepath.Join(root, path))
		if err != nil {
			return nil, fmt.Errorf("read a page: %w", err)
		}
		pages = append(pages, Parse(path, source))
	}
	return pages, nil
}

// Parse makes a page of Markdown.
func Parse(path string, source []byte) *Page {
	return &Page{Path: path, source: source, root: markdown.Parser().Parse(text.NewReader(source))}
}

// Lines returns the lines of the page.
func (p *Page) Lines() []string {
	return strings.Split(strings.TrimSuffix(string(p.source), "\n"), "\n")
}

// At names a line of the page.
func (p *Page) At(line int) string {
	return fmt.Sprintf("%s:%d", p.Path, line)
}

// lineAt returns the line of an offset of the source.
func (p *Page) lineAt(offset int) int {
	return 1 + strings.Count(string(p.source[:max(offset, 0)]), "\n")
}

// each calls f for each node of a type, the first first.
func each[N ast.Node](root ast.Node, f func(N)) {
	walk := func(n ast.Node, entering bool) (ast.WalkStatus, error) {
		if node, is := n.(N); is && entering {
			f(node)
		}
		return ast.WalkContinue, nil
	}
	_ = ast.Walk(root, walk) // walk returns none
}

// Fences returns the code blocks, those that are indented as well.
func (p *Page) Fences() []Fence {
	var fences []Fence
	add := func(n ast.Node, language string) {
		lines := n.Lines()
		if lines.Len() == 0 {
			return
		}
		fences = append(fences, Fence{Piece{p.lineAt(lines.At(0).Start), string(lines.Value(p.source))}, language})
	}
	each(p.root, func(n *ast.FencedCodeBlock) { add(n, string(n.Language(p.source))) })
	each(p.root, func(n *ast.CodeBlock) { add(n, "") })
	return fences
}

// Spans returns the code spans.
func (p *Page) Spans() []Piece {
	var spans []Piece
	each(p.root, func(n *ast.CodeSpan) { spans = append(spans, Piece{p.lineOf(n), p.textOf(n)}) })
	return spans
}

// Links returns where links and pictures lead.
func (p *Page) Links() []Piece {
	var links []Piece
	each(p.root, func(n *ast.Link) { links = append(links, Piece{p.lineOf(n), string(n.Destination)}) })
	each(p.root, func(n *ast.Image) { links = append(links, Piece{p.lineOf(n), string(n.Destination)}) })
	return links
}

// Headings returns the headings as a reader sees them.
func (p *Page) Headings() []Piece {
	var headings []Piece
	each(p.root, func(n *ast.Heading) { headings = append(headings, Piece{p.lineOf(n), p.textOf(n)}) })
	return headings
}

// Tables returns the tables.
func (p *Page) Tables() []Table {
	var tables []Table
	each(p.root, func(n *east.Table) {
		var table Table
		for row := n.FirstChild(); row != nil; row = row.NextSibling() {
			cells := p.cells(row)
			if _, is := row.(*east.TableHeader); !is {
				table.Rows = append(table.Rows, cells)
				continue
			}
			for _, cell := range cells {
				table.Header = append(table.Header, cell.Text)
			}
		}
		tables = append(tables, table)
	})
	return tables
}

func (p *Page) cells(row ast.Node) []Cell {
	var cells []Cell
	for n := row.FirstChild(); n != nil; n = n.NextSibling() {
		cell := Cell{Piece: Piece{p.lineOf(n), p.textOf(n)}, Column: len(cells)}
		each(n, func(span *ast.CodeSpan) { cell.Names = append(cell.Names, p.textOf(span)) })
		cells = append(cells, cell)
	}
	return cells
}

// textOf returns what a reader sees of a node.
func (p *Page) textOf(n ast.Node) string {
	var b strings.Builder
	each(n, func(t *ast.Text) {
		b.Write(t.Segment.Value(p.source))
		if t.SoftLineBreak() || t.HardLineBreak() {
			b.WriteByte(' ')
		}
	})
	each(n, func(s *ast.String) { b.Write(s.Value) })
	each(n, func(l *ast.AutoLink) { b.Write(l.Label(p.source)) })
	return b.String()
}

// lineOf returns the line of the first text in a node, or of the node that it is in.
func (p *Page) lineOf(n ast.Node) int {
	first := -1
	each(n, func(t *ast.Text) {
		if first < 0 {
			first = t.Segment.Start
		}
	})
	if first < 0 && n.Type() == ast.TypeBlock && n.Lines().Len() > 0 {
		first = n.Lines().At(0).Start
	}
	if first < 0 && n.Parent() != nil {
		return p.lineOf(n.Parent())
	}
	return p.lineAt(first)
}
