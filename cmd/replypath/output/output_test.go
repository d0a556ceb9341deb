// SPDX-License-Identifier: Apache-2.0

package output

import (
	"bytes"
	"fmt"
	"os"
	"testing"

	"github.com/creack/pty"

	"replypath/test/await"
)

// TestFit: what matters least is left out first, and nothing where there is room, or where it never may be.
func TestFit(t *testing.T) {
	same := func(s *string) string { return *s }
	fields := []Field[string]{
		NewField("A", 0, same), NewField("LEAST", 2, same), NewField("LESS", 1, func(*string) string { return "" }),
		NewField("ALWAYS", 0, func(*string) string { return "0123456789" }),
	}
	all := "\nA    LEAST  LESS  ALWAYS\näöü  äöü    -     0123456789\n"
	for width, want := range map[int]string{
		Unlimited: all,
		28:        all,
		27:        "\nA    LESS  ALWAYS\näöü  -     0123456789\n",
		20:        "\nA    ALWAYS\näöü  0123456789\n",
		1:         "\nA    ALWAYS\näöü  0123456789\n",
	} {
		p := Page{Width: width}
		Section(&p, fields, []string{"äöü"})
		await.Same(t, fmt.Sprintf("in %d columns", width), want, p.String())
	}
	var p Page
	Section(&p, fields, nil)
	await.Same(t, "of nothing", "", p.String())
}

// TestFacts: what is too long goes on below itself, and nothing of it is a command for the terminal.
func TestFacts(t *testing.T) {
	p := Page{Width: 20}
	p.Facts([2]string{"kernel", "eth0, gateway 10.3.0.1"}, [2]string{"flow", "\x1b[2Jx"})
	await.Same(t, "facts", "kernel  eth0,\n        gateway\n        10.3.0.1\nflow    \\x1b[2Jx\n", p.String())
}

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
		await.Same(t, "width of a terminal and a buffer with COLUMNS="+columns, want, [2]int{Width(slave), Width(new(bytes.Buffer))})
	}
	file := await.Must1[*os.File](t)(os.Create(t.TempDir() + "/out"))
	defer file.Close()
	t.Setenv("COLUMNS", "")
	if got := Width(file); got != Unlimited || ProseWidth(got) != 80 {
		t.Errorf("a file is %d wide, and for prose %d", got, ProseWidth(got))
	}
	await.Must(t, pty.Setsize(slave, &pty.Winsize{}))
	await.Same(t, "width of a terminal that does not tell", 80, Width(slave))
}

func TestWrap(t *testing.T) {
	for text, want := range map[string][]string{
		"":                          {""},
		"one line":                  {"one line"},
		"two lines of words":        {"two lines", "of words"},
		"an  unbreakable-word here": {"an", "unbreakable-word", "here"},
		"ä ö ü ß é":                 {"ä ö ü ß é"},
	} {
		await.Same(t, "wrapped "+text, want, wrap(text, 9))
	}
}
