// SPDX-License-Identifier: Apache-2.0

package output

import (
	"bytes"
	"os"
	"slices"
	"testing"

	"github.com/creack/pty"

	"replypath/test/await"
)

func TestWidth(t *testing.T) {
	master, slave, err := pty.Open()
	await.Must(t, err)
	defer master.Close()
	defer slave.Close()
	await.Must(t, pty.Setsize(slave, &pty.Winsize{Cols: 132, Rows: 24}))
	for columns, want := range map[string][2]int{
		"": {132, Unlimited}, "wide": {132, Unlimited}, "0": {132, Unlimited}, "200": {200, 200},
	} {
		t.Setenv("COLUMNS", columns)
		if got := [2]int{Width(slave), Width(new(bytes.Buffer))}; got != want {
			t.Errorf("COLUMNS=%s: a terminal and a buffer are %d wide, not %d", columns, got, want)
		}
	}
	file := await.Must1[*os.File](t)(os.Create(t.TempDir() + "/out"))
	defer file.Close()
	t.Setenv("COLUMNS", "")
	if got := Width(file); got != Unlimited || ProseWidth(got) != 80 {
		t.Errorf("a file is %d wide, and for prose %d", got, ProseWidth(got))
	}
	await.Must(t, pty.Setsize(slave, &pty.Winsize{}))
	if got := Width(slave); got != 80 {
		t.Errorf("a terminal that does not tell is %d wide", got)
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
	p := Page{Prose: 12} // as in a pipe
	p.Facts([2]string{"a", "two lines of words"})
	if got := p.String(); got != "a  two lines\n   of words\n" {
		t.Errorf("a fact is wrapped to %q", got)
	}
}

// TestFit: what matters least goes first, and what never goes stays where nothing fits.
func TestFit(t *testing.T) {
	columns := []Column{{Name: "A"}, {Name: "B", Rank: 2}, {Name: "C", Rank: 1}, {Name: "D"}, {Name: "E", Rank: 2}}
	for width, want := range map[int][]int{37: {0, 1, 2, 3, 4}, 36: {0, 2, 3, 4}, 29: {0, 2, 3}, 26: {0, 3}, 1: {0, 3}} {
		l := layout{columns: columns, widths: []int{10, 5, 3, 10, 1}}
		if l.fit(width); !slices.Equal(l.places, want) {
			t.Errorf("of %d characters: the columns %d stay, not %d", width, l.places, want)
		}
	}
}

// TestLongCells: no column goes for a cell of unusual length, which loses its middle. Words are said shorter before
// their column goes.
func TestLongCells(t *testing.T) {
	columns := []Column{
		{Name: "PEER", Most: 20}, {Name: "SELF", Most: 20}, {Name: "KERNEL"},
		{Name: "STATE", Rank: 1, Shorter: []Shorter{{Word: "established", By: "estab"}}},
	}
	const peer, self = "[2001:db8:1234:5678:9abc:def0:1234:5678]:50000", "[2001:db8:4::100]:5432"
	for width, want := range map[int][2][]string{
		Unlimited: {{"10.1.0.100:50000", "10.4.0.100:5432", "eth1", "established"}, {peer, self, "eth0", "closing"}},
		93:        {{"10.1.0.100:50000", "10.4.0.100:5432", "eth1", "established"}, {peer, self, "eth0", "closing"}},
		80:        {{"10.1.0.100:50000", "10.4.0.100:5432", "eth1", "established"}, {"[2001:db8:1234:56...:1234:5678]:50000", "[2001:db8...00]:5432", "eth0", "closing"}},
		60:        {{"10.1.0.100:50000", "10.4.0.100:5432", "eth1", "estab"}, {"[2001:db8...78]:50000", "[2001:db8...00]:5432", "eth0", "closing"}},
		50:        {{"10.1.0.100:50000", "10.4.0.100:5432", "eth1"}, {"[2001:db8...8]:50000", "[2001:db8...00]:5432", "eth0"}},
		10:        {{"10.1.0...:50000", "10.4.0.100:5432", "eth1"}, {"[2001:...:50000", "[2001:...]:5432", "eth0"}},
	} {
		rows := [][]string{{"10.1.0.100:50000", "10.4.0.100:5432", "eth1", "established"}, {peer, self, "eth0", "closing"}}
		var got, wanted Page
		got.FittedTable(columns, rows, width)
		wanted.Table(namesOf(columns)[:len(want[0])], want[:])
		if got.String() != wanted.String() {
			t.Errorf("in %d columns:\n%srather than\n%s", width, got.String(), wanted.String())
		}
	}
}

// TestGrowing: which columns there are is told from their first widths. A longer cell moves what is behind it in its
// own row, and the header comes again for another screen only.
func TestGrowing(t *testing.T) {
	t.Setenv("COLUMNS", "22")
	var out bytes.Buffer
	columns := []Column{
		{Name: "PEER"}, {Name: "MAC", Rank: 2}, {Name: "STATE", Rank: 1, Shorter: []Shorter{{Word: "known", By: "k", Width: 1}}}, {Name: "VERDICT"},
	}
	g := NewGrowing(&out, columns, []int{6, 3, 8, 0})
	await.Must(t, g.Header())
	rows := [][]string{{"one", "m", "new", "x"}, {"three", "", "known", "y"}, {"a longer", "m", "", "z"}, {"four", "m", "known", "new\x1b"}}
	for _, cells := range rows {
		await.Must(t, g.Row(slices.Clone(cells), ""))
	}
	await.Must(t, g.Row([]string{"five", "m", "new", "new"}, "31"))
	t.Setenv("COLUMNS", "")
	await.Must(t, g.Row(slices.Clone(rows[1]), ""))
	const want = `PEER    STATE  VERDICT
one     new    x
three   k      y
a longer  -      z
four    k      new\x1b
`
	const whole = `PEER    MAC  STATE     VERDICT
three   -    known     y
`
	if got := out.String(); got != want+"five    new    \x1b[31mnew\x1b[0m\n"+whole {
		t.Errorf("%s, not\n%s", got, want)
	}
}
