// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"

	"golang.org/x/sys/unix"
)

// page is what the reader sees: numbered steps, lines below them, and marks for what went well or not. It keeps the first
// error of writing, and what should have been seen and was not.
type page struct {
	w       io.Writer
	colour  bool
	steps   int
	missing []string
	err     error
}

// Select graphic rendition (ECMA-48, 8.3.117).
const (
	bold  = "1"
	faint = "2"
	red   = "31"
	green = "32"
)

func newPage(w io.Writer) *page { return &page{w: w, colour: wantsColour(w)} }

// wantsColour is true on a terminal that can show them, unless its user objects: https://no-color.org
func wantsColour(w io.Writer) bool {
	file, is := w.(*os.File)
	if !is || os.Getenv("NO_COLOR") != "" || os.Getenv("TERM") == "dumb" {
		return false
	}
	_, err := unix.IoctlGetTermios(int(file.Fd()), unix.TCGETS)
	return err == nil
}

// styled wraps text in an escape sequence where there is a terminal.
func (p *page) styled(style, text string) string {
	if !p.colour {
		return text
	}
	return "\x1b[" + style + "m" + text + "\x1b[0m"
}

func (p *page) write(text string) {
	_, err := fmt.Fprintln(p.w, strings.TrimRight(text, " "))
	if p.err == nil {
		p.err = err
	}
}

func (p *page) title(text string) { p.write(p.styled(bold, text)) }

// heading begins the next step.
func (p *page) heading(format string, args ...any) {
	p.steps++
	p.write("")
	p.title(fmt.Sprintf("%d. ", p.steps) + fmt.Sprintf(format, args...))
}

func (p *page) line(format string, args ...any) { p.write("   " + fmt.Sprintf(format, args...)) }

// quote is a line that somebody else has written.
func (p *page) quote(text string) { p.write("     " + p.styled(faint, text)) }

// told is a line about what went well or not.
func (p *page) told(good bool, format string, args ...any) {
	p.line("%s %s", p.mark(good), fmt.Sprintf(format, args...))
}

// require notes what was not seen.
func (p *page) require(seen bool, format string, args ...any) {
	if !seen {
		p.missing = append(p.missing, fmt.Sprintf(format, args...))
	}
}

// mustBe tells how something went that has to go well.
func (p *page) mustBe(good bool, well, badly string) {
	p.require(good, "%s", badly)
	p.told(good, "%s", map[bool]string{true: well, false: badly}[good])
}

func (p *page) mark(good bool) string {
	if good {
		return p.styled(green, "✓")
	}
	return p.styled(red, "✗")
}

// table quotes rows in aligned columns.
func (p *page) table(rows [][]string) {
	var text strings.Builder
	columns := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	for _, row := range rows {
		fmt.Fprintln(columns, strings.Join(row, "\t"))
	}
	columns.Flush() // into memory, where nothing fails
	for row := range strings.Lines(text.String()) {
		p.quote(strings.TrimRight(row, "\n"))
	}
}
