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
	// Most is how much room long cells are given before another column goes for them; 0: as much as they take. They lose their
	// middle.
	Most int
	// Least is how wide the column is, whatever stands there: rows may come later.
	Least int
	Cell  func(*T) string
}

// NewField returns a field of a rank.
func NewField[T any](name string, rank int, cell func(*T) string) Field[T] {
	return Field[T]{Name: name, Rank: rank, Cell: cell}
}

func (f *Field[T]) text(item *T) string { return OrDash(Printable(f.Cell(item))) }

// Table is which of its columns there is room for, and how wide they are.
type Table[T any] struct {
	columns []column[T]
	isCut   bool // cells are, to the widths of columns with Most
}

type column[T any] struct {
	Field[T]
	width, wanted int
}

// NewTable makes a table of a list fit so many characters, as far as may be. A row that comes later, and is longer, moves what is
// behind its long cell.
func NewTable[T any](fields []Field[T], list []T, width int) *Table[T] {
	t := &Table[T]{isCut: width < Unlimited}
	for _, f := range fields {
		wanted := max(length(f.Name), f.Least)
		for n := range list {
			wanted = max(wanted, length(f.text(&list[n])))
		}
		c := column[T]{f, wanted, wanted}
		if f.Most > 0 && t.isCut {
			c.width = min(wanted, f.Most)
		}
		t.columns = append(t.columns, c)
	}
	for t.width() > width && t.drop() {
	}
	for i := range t.columns {
		if c := &t.columns[i]; c.Most > 0 && t.isCut {
			c.width = min(c.wanted, max(c.width+width-t.width(), min(c.width, leastShown)))
		}
	}
	return t
}

// leastShown is what is left of a cell that is shortened.
const leastShown = 15

// drop takes away the column that matters least, false if all have to stay.
func (t *Table[T]) drop() bool {
	least := 0
	for i, c := range t.columns {
		if c.Rank > t.columns[least].Rank {
			least = i
		}
	}
	if t.columns[least].Rank == 0 {
		return false
	}
	t.columns = slices.Delete(t.columns, least, least+1)
	return true
}

// width is how long a line is.
func (t *Table[T]) width() int {
	total := -columnGap
	for _, c := range t.columns {
		total += c.width + columnGap
	}
	return total
}

// Header is the line above the rows.
func (t *Table[T]) Header() string {
	return t.line(func(c *column[T]) string { return c.Name }, "")
}

// Row is the line of an item. Its last cell has a colour of ECMA-48, 8.3.117, if one is named.
func (t *Table[T]) Row(item *T, colour string) string {
	return t.line(func(c *column[T]) string {
		text := c.text(item)
		if c.Most > 0 && t.isCut {
			return middled(text, c.width)
		}
		return text
	}, colour)
}

func (t *Table[T]) line(cell func(*column[T]) string, colour string) string {
	var line strings.Builder
	last := len(t.columns) - 1
	for i := range last {
		fmt.Fprintf(&line, "%-*s%*s", t.columns[i].width, cell(&t.columns[i]), columnGap, "")
	}
	return line.String() + Coloured(strings.TrimRight(cell(&t.columns[last]), " "), colour)
}

// Fits tells whether a line of so many characters has room for all fields of a list.
func Fits[T any](fields []Field[T], list []T, width int) bool {
	return NewTable(fields, list, Unlimited).width() <= width
}

// AddTable adds the fields of a list for which the page has room. The table that it returns has the columns for more rows.
func AddTable[T any](p *Page, fields []Field[T], list []T) *Table[T] {
	t := NewTable(fields, list, p.Width)
	p.Line("%s", t.Header())
	for n := range list {
		p.Line("%s", t.Row(&list[n], ""))
	}
	return t
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
		p.Hanging(Printable(text(&list[i])))
	}
}

// middled is a text without its middle, where it is longer than so many characters.
func middled(text string, width int) string {
	const gap = "..."
	if length(text) <= width {
		return text
	}
	runes, tail := []rune(text), (width-len(gap))/2
	return string(runes[:width-len(gap)-tail]) + gap + string(runes[len(runes)-tail:])
}

// Coloured is a text in a colour, or as it is where none is named.
func Coloured(text, colour string) string {
	if colour == "" {
		return text
	}
	return fmt.Sprintf("\x1b[%sm%s\x1b[0m", colour, text)
}
