// SPDX-License-Identifier: Apache-2.0

package output

import (
	"bytes"
	"cmp"
	"fmt"
	"io"
	"strings"
)

// Page is a text for people. It is made in memory, where nothing fails, and then written at once.
type Page struct {
	Width  int  // of a line of a table
	Prose  int  // of a line of what is wrapped; 0: as Width
	Colour bool // is wanted

	text bytes.Buffer
}

// NewPage begins a page that fits where it is written to.
func NewPage(w io.Writer) *Page {
	width := Width(w)
	return &Page{Width: width, Prose: ProseWidth(width), Colour: WantsColour(w)}
}

// ProseWidth is how long a line of what is wrapped becomes.
func (p *Page) ProseWidth() int { return cmp.Or(p.Prose, p.Width) }

// String is the text, lines with their ends.
func (p *Page) String() string { return p.text.String() }

// WriteTo writes the text. The error is that of writing.
func (p *Page) WriteTo(w io.Writer) (int64, error) { return p.text.WriteTo(w) }

// Line adds a line.
func (p *Page) Line(format string, args ...any) { fmt.Fprintf(&p.text, format+"\n", args...) }

// Wrapped adds a text in lines of the width of the page, each with an indentation.
func (p *Page) Wrapped(indent, text string) { p.wrapped(indent, indent, text) }

// Hanging adds a text, of which all lines but the first stand a little to the right.
func (p *Page) Hanging(text string) { p.wrapped("", "  ", text) }

// columnGap is how many blanks there are between columns.
const columnGap = 2

// Facts adds names with what there is one of, a line each. What is too long for the page goes on in the next.
func (p *Page) Facts(facts ...[2]string) {
	indent := 0
	for _, fact := range facts {
		indent = max(indent, length(fact[0])+columnGap)
	}
	for _, fact := range facts {
		p.wrapped(fmt.Sprintf("%-*s", indent, fact[0]), strings.Repeat(" ", indent), fact[1])
	}
}

// wrapped adds a text in lines of the width of the page, with what stands before the first of them, and as wide before the others.
func (p *Page) wrapped(before, further, text string) {
	for _, line := range wrap(Printable(text), p.ProseWidth()-len(further)) {
		p.Line("%s%s", before, line)
		before = further
	}
}
