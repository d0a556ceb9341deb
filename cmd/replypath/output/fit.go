// SPDX-License-Identifier: Apache-2.0

package output

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
)

// Column is one of a table that is to fit a screen.
type Column struct {
	Name string
	// Rank is how early it goes where there is no room: the highest first, and those with 0 never.
	Rank int
	// Shorter are said in the place of words before the column goes, one after the other.
	Shorter []Shorter
	// Most is how much room long cells are given before another column goes for them; 0: as much as they take.
	Most int
}

// Shorter is a word, what stands in its place, and how wide the column then has to be for what may come.
type Shorter struct {
	Word, By string
	Width    int
}

// leastShown is what is left of a cell that is shortened.
const leastShown = 15

// layout is which columns of a table there is room for, and how wide they are.
type layout struct {
	columns []Column
	widths  []int
	places  []int // of the columns that stay
	// shorten says a word of a column otherwise, and returns how wide that is then.
	shorten func(place int, s Shorter) int
}

// fit makes the columns fit so many characters, as far as may be: by less room for long cells, then by columns that go.
func (l *layout) fit(width int) {
	wanted := slices.Clone(l.widths)
	l.places = make([]int, len(l.columns))
	for i, column := range l.columns {
		l.places[i] = i
		if column.Most > 0 {
			l.widths[i] = min(l.widths[i], column.Most)
		}
	}
	slices.SortStableFunc(l.places, func(a, b int) int { return cmp.Compare(l.columns[b].Rank, l.columns[a].Rank) })
	for l.total() > width && len(l.places) > 0 && l.columns[l.places[0]].Rank > 0 {
		l.drop(width)
	}
	slices.Sort(l.places)
	for _, place := range slices.Backward(l.places) {
		if l.columns[place].Most > 0 {
			l.widths[place] = min(l.widths[place], max(l.widths[place]-l.excess(width), leastShown))
		}
	}
	for _, place := range l.places {
		if room := -l.excess(width); l.columns[place].Most > 0 && room > 0 {
			l.widths[place] += min(room, wanted[place]-l.widths[place])
		}
	}
}

// drop takes away what matters least: first words, then the column.
func (l *layout) drop(width int) {
	place := l.places[0]
	for _, shorter := range l.columns[place].Shorter {
		l.widths[place] = l.shorten(place, shorter)
		if l.total() <= width {
			return
		}
	}
	l.places = l.places[1:]
}

// excess is by how much a line is too long. It is less than 0 where there is room.
func (l *layout) excess(width int) int { return l.total() - width }

// total is how long a line is.
func (l *layout) total() int {
	total := -columnGap
	for _, place := range l.places {
		total += l.widths[place] + columnGap
	}
	return total
}

// FittedTable is Table in so many characters, as far as may be. The rows are those that are shown then.
func (p *Page) FittedTable(columns []Column, rows [][]string, width int) {
	names := namesOf(columns)
	l := &layout{columns: columns, widths: widthsOf(names, rows)}
	l.shorten = func(place int, s Shorter) int {
		for _, row := range rows {
			if row[place] == s.Word {
				row[place] = s.By
			}
		}
		return widthsOf(names, rows)[place]
	}
	l.fit(width)
	p.Table(pick(names, l.places), Rows(rows, func(row *[]string) []string {
		cells := pick(*row, l.places)
		for i, place := range l.places {
			if columns[place].Most > 0 {
				cells[i] = middled(Printable(cells[i]), l.widths[place])
			}
		}
		return cells
	}))
}

// namesOf are those of columns.
func namesOf(columns []Column) []string {
	names := make([]string, len(columns))
	for i := range columns {
		names[i] = columns[i].Name
	}
	return names
}

// widthsOf are those of columns that have room for all cells.
func widthsOf(names []string, rows [][]string) []int {
	widths := make([]int, len(names))
	for i, name := range names {
		widths[i] = length(name)
	}
	for _, row := range rows {
		for i, cell := range row {
			widths[i] = max(widths[i], length(OrDash(Printable(cell))))
		}
	}
	return widths
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

func pick[T any](list []T, places []int) []T {
	picked := make([]T, len(places))
	for i, place := range places {
		picked[i] = list[place]
	}
	return picked
}

// Growing is a table whose rows come one by one, on a screen of any width. Which columns there is room for is told from how
// wide they are at first: a cell that is longer moves what is behind it, in its own row. The header stands there once more
// when the screen gets another width.
type Growing struct {
	to      io.Writer
	columns []Column
	widths  []int // at first

	width  int // of the screen
	layout layout
	words  []map[string]string // of columns, what is said in the place of them
}

// NewGrowing begins a table with columns that are at least so wide.
func NewGrowing(to io.Writer, columns []Column, widths []int) *Growing {
	return &Growing{to: to, columns: columns, widths: widthsOf(namesOf(columns), [][]string{blanks(widths)})}
}

// Continue begins one that goes on below the rows of a FittedTable, in columns as wide as theirs.
func Continue(to io.Writer, columns []Column, rows [][]string) *Growing {
	g := &Growing{to: to, columns: columns, widths: widthsOf(namesOf(columns), rows)}
	g.fit(Width(to))
	return g
}

// blanks are cells that are so wide.
func blanks(widths []int) []string {
	cells := make([]string, len(widths))
	for i, width := range widths {
		cells[i] = strings.Repeat(" ", width)
	}
	return cells
}

// Header writes the header, unless it stands there already.
func (g *Growing) Header() error {
	width := Width(g.to)
	if width == g.width {
		return nil
	}
	g.fit(width)
	return g.write(namesOf(g.columns))
}

func (g *Growing) fit(width int) {
	g.width, g.words = width, make([]map[string]string, len(g.columns))
	g.layout = layout{columns: g.columns, widths: slices.Clone(g.widths), shorten: g.shorten}
	g.layout.fit(width)
}

func (g *Growing) shorten(place int, s Shorter) int {
	if g.words[place] == nil {
		g.words[place] = make(map[string]string)
	}
	g.words[place][s.Word] = s.By
	return max(s.Width, length(g.columns[place].Name))
}

// Row writes a row, its last cell in a colour where one is named.
func (g *Growing) Row(cells []string, colour string) error {
	if err := g.Header(); err != nil {
		return err
	}
	for i, cell := range cells {
		if shorter, is := g.words[i][cell]; is {
			cell = shorter
		}
		cells[i] = Printable(cell)
	}
	last := len(cells) - 1
	cells[last] = Coloured(cells[last], colour)
	return g.write(cells)
}

func (g *Growing) write(cells []string) error {
	return Row(g.to, pick(g.layout.widths, g.layout.places), pick(cells, g.layout.places))
}

// Coloured is a text in a colour of ECMA-48, 8.3.117, or as it is where none is named.
func Coloured(text, colour string) string {
	if colour == "" {
		return text
	}
	return fmt.Sprintf("\x1b[%sm%s\x1b[0m", colour, text)
}
