// SPDX-License-Identifier: Apache-2.0

package config

import (
	"errors"
	"fmt"
	"strings"
)

// ErrInvalid is what every error of a configuration matches, a file that cannot
// be read included.
var ErrInvalid = errors.New("invalid configuration")

// Error says what is wrong with a configuration, and what is allowed, in one
// line.
type Error struct {
	File    string // empty for a command-line flag
	Line    int    // 0 where no line is to blame
	Key     string // "interfaces[0].next_hop"; empty where no key is to blame
	Message string
	Err     error // the cause, where there is one
}

// Error returns "file:line: key: message" without the parts that are empty.
func (e *Error) Error() string {
	var b strings.Builder
	if e.File != "" {
		b.WriteString(e.File)
		if e.Line > 0 {
			fmt.Fprintf(&b, ":%d", e.Line)
		}
		b.WriteString(": ")
	}
	if e.Key != "" {
		b.WriteString(e.Key + ": ")
	}
	b.WriteString(e.Message)
	return b.String()
}

// Is makes errors.Is(err, ErrInvalid) true.
func (e *Error) Is(target error) bool { return target == ErrInvalid }

// Unwrap returns the cause, such as fs.ErrNotExist.
func (e *Error) Unwrap() error { return e.Err }

// Origin is where a file sets a key, so that what turns out to be wrong with it later is blamed on its line too. It is zero where no
// file does.
type Origin struct {
	File string
	Line int
}

// mostErrors bounds what is told of a file that is none of ours.
const mostErrors = 50

// joined leaves out the rest of very many errors, which were not all looked for.
func joined(errs []error) error {
	if len(errs) > mostErrors {
		errs = append(errs[:mostErrors], &Error{Message: "and more errors"})
	}
	return errors.Join(errs...)
}
