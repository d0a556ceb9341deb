// SPDX-License-Identifier: Apache-2.0

package output

import (
	"bytes"
	"os"
	"slices"
	"testing"

	"github.com/creack/pty"
)

func TestWidth(t *testing.T) {
	master, slave, err := pty.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer master.Close()
	defer slave.Close()
	if err := pty.Setsize(slave, &pty.Winsize{Cols: 132, Rows: 24}); err != nil {
		t.Fatal(err)
	}
	for columns, want := range map[string][2]int{"": {132, 80}, "wide": {132, 80}, "0": {132, 80}, "200": {200, 200}} {
		t.Setenv("COLUMNS", columns)
		if got := [2]int{Width(slave), Width(new(bytes.Buffer))}; got != want {
			t.Errorf("COLUMNS=%s: a terminal and a buffer are %d wide, not %d", columns, got, want)
		}
	}
	file, err := os.Create(t.TempDir() + "/out")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	t.Setenv("COLUMNS", "")
	if got := Width(file); got != 80 {
		t.Errorf("a file is %d wide", got)
	}
}

func TestWrap(t *testing.T) {
	for text, want := range map[string][]string{
		"":                          {""},
		"one line":                  {"one line"},
		"two lines of words":        {"two lines", "of words"},
		"an  unbreakable-word here": {"an", "unbreakable-word", "here"},
		"ä ö ü ß é":                 {"ä ö ü ß é"},
	} {
		if got := Wrap(text, 9); !slices.Equal(got, want) {
			t.Errorf("%q is wrapped to %q, not %q", text, got, want)
		}
	}
}

// TestFit: what matters least goes first, and what never goes stays where nothing fits.
func TestFit(t *testing.T) {
	columns := []Column{{"A", 0}, {"B", 2}, {"C", 1}, {"D", 0}, {"E", 2}}
	widths := []int{10, 5, 3, 10, 1}
	for width, want := range map[int][]int{37: {0, 1, 2, 3, 4}, 36: {0, 2, 3, 4}, 29: {0, 2, 3}, 26: {0, 3}, 1: {0, 3}} {
		if got := fit(columns, widths, width); !slices.Equal(got, want) {
			t.Errorf("of %d characters: the columns %d stay, not %d", width, got, want)
		}
	}
}

// TestGrowing: the header comes again when a column becomes wider or goes, and not else.
func TestGrowing(t *testing.T) {
	t.Setenv("COLUMNS", "20")
	var out bytes.Buffer
	g := NewGrowing(&out, []Column{{"PEER", 0}, {"MAC", 1}, {"VERDICT", 0}}, []int{6, 0, 0})
	if err := g.Header(); err != nil {
		t.Fatal(err)
	}
	for _, cells := range [][]string{{"one", "m", "new"}, {"three", "", "known"}, {"a longer", "m", "moved"}, {"four", "m", "new\x1b"}} {
		if err := g.Row(cells, ""); err != nil {
			t.Fatal(err)
		}
	}
	if err := g.Row([]string{"five", "m", "new"}, "31"); err != nil {
		t.Fatal(err)
	}
	const want = `PEER    MAC  VERDICT
one     m    new
three   -    known
PEER      VERDICT
a longer  moved
four      new\x1b
`
	if got := out.String(); got != want+"five      \x1b[31mnew\x1b[0m\n" {
		t.Errorf("%q, not %q", got, want)
	}
}
