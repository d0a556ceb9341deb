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
}
