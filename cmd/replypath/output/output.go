// Package output writes what the commands tell: tables, JSON, and the values in them as people read them.
package output

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"

	"golang.org/x/sys/unix"
)

// NewEncoder returns what writes an object a line, and < and > as they are.
func NewEncoder(w io.Writer) *json.Encoder {
	encoder := json.NewEncoder(w)
	encoder.SetEscapeHTML(false)
	return encoder
}

// Table aligns rows below a header. An empty column is a dash, so that columns can be told apart by blanks. The
// error is that of writing.
func Table(w io.Writer, header []string, rows [][]string) error {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	for _, row := range append([][]string{header}, rows...) {
		cells := make([]string, len(row))
		for i, cell := range row {
			cells[i] = OrDash(Printable(cell))
		}
		fmt.Fprintln(t, strings.Join(cells, "\t"))
	}
	return t.Flush()
}

// NotedTable is Table with lines of their own below each row.
func NotedTable(w io.Writer, header []string, rows, notes [][]string) error {
	var table bytes.Buffer
	if err := Table(&table, header, rows); err != nil {
		return err
	}
	var noted strings.Builder
	row := -1 // the header
	for line := range strings.Lines(table.String()) {
		noted.WriteString(line)
		if row >= 0 {
			for _, note := range notes[row] {
				noted.WriteString("    " + note + "\n")
			}
		}
		row++
	}
	_, err := io.WriteString(w, noted.String())
	return err
}

// Row writes one row of a table whose later rows are not known yet, in columns of given widths. The error is that
// of writing.
func Row(w io.Writer, widths []int, cells []string) error {
	var line strings.Builder
	for i, cell := range cells {
		fmt.Fprintf(&line, "%-*s  ", widths[i], OrDash(cell))
	}
	_, err := fmt.Fprintln(w, strings.TrimRight(line.String(), " "))
	return err
}

// WantsColour tells whether people look at what is written, and do not object to colours: https://no-color.org
func WantsColour(w io.Writer) bool { return IsTerminal(w) && os.Getenv("NO_COLOR") == "" }

// IsTerminal tells whether people look at what is written.
func IsTerminal(w io.Writer) bool {
	file, is := w.(*os.File)
	if !is {
		return false
	}
	_, err := unix.IoctlGetTermios(int(file.Fd()), unix.TCGETS)
	return err == nil
}
