package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

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

// report writes an error on one line: joined ones are told apart by semicolons.
func report(w io.Writer, err error) {
	text := strings.ReplaceAll(err.Error(), "\n", "; ")
	if errors.Is(err, fs.ErrPermission) && os.Geteuid() != 0 && !strings.Contains(text, "root") {
		text += ": run it as root"
	}
	fmt.Fprintf(w, "replypath: %s\n", text)
}
