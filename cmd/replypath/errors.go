package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"replypath/loader/config"
)

// Exit codes.
const (
	exitDone    = 0
	exitFailed  = 1
	exitUsage   = 2 // wrong usage or configuration
	exitNothing = 3 // status: nothing is attached; doctor: an error remains
)

// exitError is an error with an exit code of its own.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string { return e.err.Error() }
func (e *exitError) Unwrap() error { return e.err }

// usageErrorf blames the command line.
func usageErrorf(format string, args ...any) error {
	return &exitError{exitUsage, fmt.Errorf(format, args...)}
}

func exitCode(err error) int {
	var coded *exitError
	switch {
	case err == nil:
		return exitDone
	case errors.As(err, &coded):
		return coded.code
	case errors.Is(err, config.ErrInvalid):
		return exitUsage
	}
	return exitFailed
}

// report writes an error on one line: joined ones are told apart by semicolons. Each of a
// configuration's has its own.
func report(w io.Writer, err error) {
	texts := []string{oneLine(err)}
	if errors.Is(err, config.ErrInvalid) {
		texts = strings.Split(err.Error(), "\n")
	}
	for _, text := range texts {
		if errors.Is(err, fs.ErrPermission) && os.Geteuid() != 0 && !strings.Contains(text, "root") {
			text += ": run it as root"
		}
		fmt.Fprintf(w, "replypath: %s\n", printable(text))
	}
}

// oneLine puts joined errors behind each other.
func oneLine(err error) string { return strings.ReplaceAll(err.Error(), "\n", "; ") }

// printable escapes what a terminal would obey: the kernel takes it in the name of an interface, and anybody in
// that of a file.
func printable(text string) string {
	if utf8.ValidString(text) && !strings.ContainsFunc(text, isControl) {
		return text
	}
	var b strings.Builder
	for i, r := range text {
		_, size := utf8.DecodeRuneInString(text[i:])
		if r == utf8.RuneError && size == 1 || isControl(r) {
			quoted := strconv.Quote(text[i : i+size])
			b.WriteString(quoted[1 : len(quoted)-1])
			continue
		}
		b.WriteRune(r)
	}
	return b.String()
}

// isControl tells of runes that are no part of a text, those that turn its direction included.
func isControl(r rune) bool { return unicode.IsControl(r) || unicode.Is(unicode.Cf, r) }
