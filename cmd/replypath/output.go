package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
)

const (
	outputTable = "table"
	outputJSON  = "json"
)

// output is how a reading command prints.
type output struct{ format string }

// addOutput gives a command the flag -o.
func addOutput(c *cobra.Command) *output {
	o := &output{format: outputTable}
	c.Flags().VarP(newParsed(&o.format, "format", o.format, oneOf(outputTable, outputJSON)), "output", "o", "table or json")
	complete(c, "output", func() []string { return []string{outputTable, outputJSON} })
	return o
}

// print writes document as JSON, or the table that table writes.
func (o *output) print(w io.Writer, document any, table func(io.Writer) error) error {
	if o.format == outputJSON {
		encoder := newEncoder(w)
		encoder.SetIndent("", "  ")
		return encoder.Encode(document)
	}
	return table(w)
}

// newEncoder writes an object a line, and < and > as they are.
func newEncoder(w io.Writer) *json.Encoder {
	encoder := json.NewEncoder(w)
	encoder.SetEscapeHTML(false)
	return encoder
}

// writeTable aligns rows below a header. An empty column is a dash, so that
// columns can be told apart by blanks.
func writeTable(w io.Writer, header []string, rows [][]string) error {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	for _, row := range append([][]string{header}, rows...) {
		cells := make([]string, len(row))
		for i, cell := range row {
			cells[i] = orDash(printable(cell))
		}
		fmt.Fprintln(t, strings.Join(cells, "\t"))
	}
	return t.Flush()
}

// writeNotedTable is writeTable with lines of their own below each row.
func writeNotedTable(w io.Writer, header []string, rows, notes [][]string) error {
	var table bytes.Buffer
	if err := writeTable(&table, header, rows); err != nil {
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

func orDash(text string) string {
	if text == "" {
		return "-"
	}
	return text
}

// orEmpty is the text behind a pointer, "" for none.
func orEmpty(text *string) string {
	if text == nil {
		return ""
	}
	return *text
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}
