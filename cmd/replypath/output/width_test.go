// SPDX-License-Identifier: Apache-2.0

package output

import (
	"bytes"
	"os"
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
		await.Same(t, "wrapped "+text, want, Wrap(text, 9))
	}
}
