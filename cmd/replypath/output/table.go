// SPDX-License-Identifier: Apache-2.0

package output

import (
	"fmt"
	"slices"
	"strings"
)

// Field is a column of a table, and what stands there of an item.
type Field[T any] struct {
	Name string
	// Rank is how early it goes where there is no room: the highest first, and those with 0 never.
	Rank int
	// Width is how wide the column is at least: rows may come later.
	Width int
	Cell  func(*T) string
}

// NewField returns a field of a rank.
func NewField[T any](name string, rank int, cell func(*T) string) Field[T] {
	return Field[T]{Name: name, Rank: rank, Cell: cell}
}

func (f *Field[T]) text(item *T) string { return OrDash(Printable(f.Cell(item))) }

// Table is the columns that there is room for, each as wide as its longest cell. A row that comes later, and is longer, moves
// what is behind its long cell: text/tabwriter has to know all rows before.
type Table[T any] []Field[T]

// NewTable makes a table of a list fit so many characters, as far as columns may go for that.
func NewTable[T any](fields []Field[T], list []T, width int) Table[T] {
	t, total := Table[T](slices.Clone(fields)), -columnGap
	for i := range t {
		f := &t[i]
		f.Width = max(f.Width, length(f.Name))
		for n := range list {
			f.Width = max(f.Width, length(f.text(&list[n])))
		}
		total += f.Width + columnGap
	}
	for total > width {
		least := 0
		for i := range t {
			if t[i].Rank > t[least].Rank {
				least = i
			}
		}
		if t[least].Rank == 0 {
			break
		}
		total -= t[least].Width + columnGap
		t = slices.Delete(t, least, least+1)
	}
	return t
}

// Header is the line above the rows.
func (t Table[T]) Header() string {
	return t.line(func(f *Field[T]) string { return f.Name }, "")
}

// Row is the line of an item. Its last cell has a colour of ECMA-48, 8.3.117, if one is named.
func (t Table[T]) Row(item *T, colour string) string {
	return t.line(func(f *Field[T]) string { return f.text(item) }, colour)
}

func (t Table[T]) line(cell func(*Field[T]) string, colour string) string {
	var line strings.Builder
	last := len(t) - 1
	for i := range last {
		fmt.Fprintf(&line, "%-*s%*s", t[i].Width, cell(&t[i]), columnGap, "")
	}
	return line.String() + Coloured(strings.TrimRight(cell(&t[last]), " "), colour)
}

// AddTable adds the fields of a list for which the page has room.
func AddTable[T any](p *Page, fields []Field[T], list []T) {
	t := NewTable(fields, list, p.Width)
	p.Line("%s", t.Header())
	for n := range list {
		p.Line("%s", t.Row(&list[n], ""))
	}
}

// Section adds a table below an empty line, unless there is nothing in the list.
func Section[T any](p *Page, fields []Field[T], list []T) {
	if len(list) > 0 {
		p.Line("")
		AddTable(p, fields, list)
	}
}

// WrappedSection adds texts below an empty line and a header, unless there are none. What goes on in the next line stands
// a little to the right there.
func WrappedSection[T any](p *Page, header string, list []T, text func(*T) string) {
	if len(list) == 0 {
		return
	}
	p.Line("")
	p.Line("%s", header)
	for i := range list {
		p.Hanging(text(&list[i]))
	}
}

// Coloured is a text in a colour, or as it is where none is named.
func Coloured(text, colour string) string {
	if colour == "" {
		return text
	}
	return fmt.Sprintf("\x1b[%sm%s\x1b[0m", colour, text)
}
