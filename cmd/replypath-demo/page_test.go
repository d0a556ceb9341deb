// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"

	"replypath/test/await"
)

func TestColour(t *testing.T) {
	near, tty, err := pty.Open()
	await.Must(t, err)
	defer near.Close()
	defer tty.Close()
	t.Setenv("NO_COLOR", "")
	t.Setenv("TERM", "xterm")
	if !wantsColour(tty) {
		t.Error("no colour on a terminal")
	}
	if wantsColour(new(strings.Builder)) {
		t.Error("colour where there is no terminal")
	}
	t.Setenv("TERM", "dumb")
	if wantsColour(tty) {
		t.Error("colour on a dumb terminal")
	}
	t.Setenv("TERM", "xterm")
	t.Setenv("NO_COLOR", "1")
	if wantsColour(tty) {
		t.Error("colour in spite of NO_COLOR")
	}
}

func TestPage(t *testing.T) {
	var text strings.Builder
	p := newPage(&text)
	p.title("title")
	p.heading("first")
	p.told(true, "well")
	p.heading("second %d", 2)
	p.told(false, "badly")
	p.table([][]string{{"a", "b"}, {"long", "c"}})
	const want = "title\n\n1. first\n   ✓ well\n\n2. second 2\n   ✗ badly\n     a     b\n     long  c\n"
	if text.String() != want {
		t.Errorf("got\n%s\nnot\n%s", text.String(), want)
	}
	p.colour = true
	if got := p.mark(true); got != "\x1b[32m✓\x1b[0m" {
		t.Errorf("a mark is %q", got)
	}
}

// TestUnreadPage has a page be lost, which must not pass for a success.
func TestUnreadPage(t *testing.T) {
	full := await.Must1[*os.File](t)(os.OpenFile("/dev/full", os.O_WRONLY, 0))
	defer full.Close()
	d := &demo{page: newPage(full)}
	if err := d.verdict(); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("got error %v", err)
	}
}

func TestSamples(t *testing.T) {
	const text = "# TYPE m counter\nm{a=\"x y\"} 2\nm{a=\"z\"} 3.5\nmore{a=\"z\"} 7\nm_total 1\n"
	found, sum, err := samples(text, "m")
	await.Must(t, err)
	if len(found) != 2 || sum != 5.5 {
		t.Errorf("got %q, the sum is %g", found, sum)
	}
	if _, _, err := samples(`m{a="b"} much`, "m"); err == nil {
		t.Error("a value that is no number was accepted")
	}
}
