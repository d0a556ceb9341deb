// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"replypath/cmd/replypath/output"
	"replypath/loader/config"
	"replypath/loader/problems"
)

// Exit codes.
const (
	ExitDone    = 0
	ExitFailed  = 1
	ExitUsage   = 2 // wrong usage or configuration
	ExitNothing = 3 // status: nothing is attached, or replies fail now; doctor: an error remains
)

// ExitError is an error with an exit code of its own.
type ExitError struct {
	Code int
	Err  error
}

func (e *ExitError) Error() string { return e.Err.Error() }
func (e *ExitError) Unwrap() error { return e.Err }

// UsageErrorf blames the command line.
func UsageErrorf(format string, args ...any) error {
	return &ExitError{ExitUsage, fmt.Errorf(format, args...)}
}

func exitCode(err error) int {
	var coded *ExitError
	switch {
	case err == nil:
		return ExitDone
	case errors.As(err, &coded):
		return coded.Code
	case errors.Is(err, config.ErrInvalid):
		return ExitUsage
	}
	return ExitFailed
}

// Report writes an error on one line: joined ones are told apart by semicolons. Each of a
// configuration's has its own.
func Report(w io.Writer, err error) {
	texts := []string{problems.OneLine(err)}
	if errors.Is(err, config.ErrInvalid) {
		texts = strings.Split(err.Error(), "\n")
	}
	for _, text := range texts {
		if errors.Is(err, fs.ErrPermission) && os.Geteuid() != 0 && !strings.Contains(text, "root") {
			text += ": run it as root"
		}
		fmt.Fprintf(w, "replypath: %s\n", output.Printable(text))
	}
}
