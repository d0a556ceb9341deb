// SPDX-License-Identifier: Apache-2.0

package output

import (
	"io"
	"math"
	"os"
	"strconv"
	"strings"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

// Unlimited is the width of a page whose lines are as long as it takes.
const Unlimited = math.MaxInt

// How large a screen is of which nothing is known, and how wide a text where there is none.
const defaultWidth, defaultHeight = 80, 24

// Width is how many characters a line of a table has room for: as many as COLUMNS says (POSIX, 8.3), else the terminal. As
// of ps(1), nothing is cut where neither tells: programs read it, or a file keeps it.
func Width(w io.Writer) int {
	if columns, err := strconv.Atoi(os.Getenv("COLUMNS")); err == nil && columns > 0 {
		return columns
	}
	size := sizeOf(w)
	switch {
	case size == nil:
		return Unlimited
	case size.Col == 0:
		return defaultWidth
	}
	return int(size.Col)
}

// Height is how many lines a terminal shows.
func Height(w io.Writer) int {
	if size := sizeOf(w); size != nil && size.Row > 0 {
		return int(size.Row)
	}
	return defaultHeight
}

// IsTerminal tells whether people look at what is written.
func IsTerminal(w io.Writer) bool { return sizeOf(w) != nil }

// sizeOf is that of a terminal, nil for anything else.
func sizeOf(w io.Writer) *unix.Winsize {
	file, is := w.(*os.File)
	if !is {
		return nil
	}
	size, err := unix.IoctlGetWinsize(int(file.Fd()), unix.TIOCGWINSZ)
	if err != nil {
		return nil
	}
	return size
}

// Cut is the beginning of a line that is too long.
func Cut(line string, width int) string {
	if runes := []rune(line); len(runes) > width {
		return string(runes[:width])
	}
	return line
}

// ProseWidth is how long a line of text becomes where one of a table has room for so many characters.
func ProseWidth(width int) int {
	if width == Unlimited {
		return defaultWidth
	}
	return width
}

// wrap breaks a text between words into lines of at most so many characters. A longer word has a line of its own.
func wrap(text string, width int) []string {
	var lines []string
	line := ""
	for word := range strings.SplitSeq(text, " ") {
		switch {
		case line == "":
			line = word
		case length(line)+1+length(word) > width:
			lines = append(lines, strings.TrimRight(line, " "))
			line = word
		default:
			line += " " + word
		}
	}
	return append(lines, strings.TrimRight(line, " "))
}

func length(text string) int { return utf8.RuneCountInString(text) }
