// SPDX-License-Identifier: Apache-2.0

package output

import (
	"cmp"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

// defaultWidth is how wide a screen is of which nothing is known.
const defaultWidth = 80

// Width is how many characters a line has room for: as many as COLUMNS says (POSIX, 8.3), else the terminal, else 80.
func Width(w io.Writer) int {
	if columns, err := strconv.Atoi(os.Getenv("COLUMNS")); err == nil && columns > 0 {
		return columns
	}
	if file, is := w.(*os.File); is {
		if size, err := unix.IoctlGetWinsize(int(file.Fd()), unix.TIOCGWINSZ); err == nil && size.Col > 0 {
			return int(size.Col)
		}
	}
	return defaultWidth
}

// Wrap breaks a text between words into lines of at most so many characters. A longer word has a line of its own.
func Wrap(text string, width int) []string {
	var lines []string
	line := ""
	for word := range strings.SplitSeq(text, " ") {
		switch {
		case line == "":
			line = word
		case length(line)+1+length(word) > width:
			lines = append(lines, strings.TrimRight(line, " "))
			line = word
		default:
			line += " " + word
		}
	}
	return append(lines, strings.TrimRight(line, " "))
}

func length(text string) int { return utf8.RuneCountInString(text) }

// Column is one of a table that is to fit a screen.
type Column struct {
	Name string
	// Rank is how early it goes where there is no room: the highest first, and those with 0 never.
	Rank int
}

// columnGap is how many blanks there are between columns.
const columnGap = 2

// fit returns the places of the columns that stay, by how wide each is.
func fit(columns []Column, widths []int, width int) []int {
	places := make([]int, len(columns))
	total := -columnGap
	for i := range columns {
		places[i] = i
		total += widths[i] + columnGap
	}
	slices.SortStableFunc(places, func(a, b int) int { return cmp.Compare(columns[b].Rank, columns[a].Rank) })
	for total > width && len(places) > 0 && columns[places[0]].Rank > 0 {
		total -= widths[places[0]] + columnGap
		places = places[1:]
	}
	slices.Sort(places)
	return places
}

// FittedTable is Table without the columns for which a line of so many characters has no room.
func (p *Page) FittedTable(columns []Column, rows [][]string, width int) {
	names := make([]string, len(columns))
	for i := range columns {
		names[i] = columns[i].Name
	}
	widths := make([]int, len(columns))
	for _, row := range append([][]string{names}, rows...) {
		widen(widths, row)
	}
	stay := fit(columns, widths, width)
	p.Table(pick(names, stay), Rows(rows, func(row *[]string) []string { return pick(*row, stay) }))
}

// widen makes each column wide enough for its cell.
func widen(widths []int, cells []string) {
	for i, cell := range cells {
		widths[i] = max(widths[i], length(OrDash(Printable(cell))))
	}
}

func pick[T any](list []T, places []int) []T {
	picked := make([]T, len(places))
	for i, place := range places {
		picked[i] = list[place]
	}
	return picked
}

// Growing is a table whose rows come one by one, on a screen of any width. A cell that is too long makes its column wider,
// and others go where there is no room any more. The header then stands there once more.
type Growing struct {
	to      io.Writer
	columns []Column
	names   []string
	widths  []int
	header  string // as it was written last
}

// NewGrowing begins a table with columns of given widths.
func NewGrowing(to io.Writer, columns []Column, widths []int) *Growing {
	g := &Growing{to: to, columns: columns, widths: slices.Clone(widths)}
	for _, column := range columns {
		g.names = append(g.names, column.Name)
	}
	widen(g.widths, g.names)
	return g
}

// Header writes the header, unless it stands there already.
func (g *Growing) Header() error {
	header := g.line(g.names)
	if header == g.header {
		return nil
	}
	g.header = header
	_, err := io.WriteString(g.to, header)
	return err
}

// Row writes a row, its last cell in a colour where one is named.
func (g *Growing) Row(cells []string, colour string) error {
	for i, cell := range cells {
		cells[i] = Printable(cell)
	}
	widen(g.widths, cells)
	if err := g.Header(); err != nil {
		return err
	}
	last := len(cells) - 1
	cells[last] = Coloured(cells[last], colour)
	_, err := io.WriteString(g.to, g.line(cells))
	return err
}

func (g *Growing) line(cells []string) string {
	var line strings.Builder
	stay := fit(g.columns, g.widths, Width(g.to))
	_ = Row(&line, pick(g.widths, stay), pick(cells, stay)) // a builder takes everything
	return line.String()
}

// Coloured is a text in a colour of ECMA-48, 8.3.117, or as it is where none is named.
func Coloured(text, colour string) string {
	if colour == "" {
		return text
	}
	return fmt.Sprintf("\x1b[%sm%s\x1b[0m", colour, text)
}
