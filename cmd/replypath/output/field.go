// SPDX-License-Identifier: Apache-2.0

package output

// Field is a column, and what stands there of an item.
type Field[T any] struct {
	Column
	Cell func(*T) string
}

// NewField returns a field of a rank.
func NewField[T any](name string, rank int, cell func(*T) string) Field[T] {
	return Field[T]{Column{Name: name, Rank: rank}, cell}
}

// Columns are those of fields.
func Columns[T any](fields []Field[T]) []Column {
	columns := make([]Column, len(fields))
	for i := range fields {
		columns[i] = fields[i].Column
	}
	return columns
}

// Cells are the row of an item.
func Cells[T any](fields []Field[T], item *T) []string {
	cells := make([]string, len(fields))
	for i := range fields {
		cells[i] = fields[i].Cell(item)
	}
	return cells
}

// FieldRows are the rows of a list.
func FieldRows[T any](fields []Field[T], list []T) [][]string {
	return Rows(list, func(item *T) []string { return Cells(fields, item) })
}

// Fits tells whether a line of so many characters has room for all fields of a list.
func Fits[T any](fields []Field[T], list []T, width int) bool {
	columns := Columns(fields)
	total := -columnGap
	for _, each := range widthsOf(namesOf(columns), FieldRows(fields, list)) {
		total += each + columnGap
	}
	return total <= width
}

// FittedSection adds a table of those fields of a list for which the page has room below an empty line, unless there is
// nothing in the list.
func FittedSection[T any](p *Page, fields []Field[T], list []T) {
	if len(list) > 0 {
		p.Line("")
		p.FittedTable(Columns(fields), FieldRows(fields, list), p.Width)
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
