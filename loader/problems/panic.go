// SPDX-License-Identifier: Apache-2.0

package problems

import (
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
)

// Panic is the error of a reading that has panicked.
type Panic struct {
	Value any
	Stack []byte
}

// Error is what an operator sees of it; LogStack has the rest.
func (p *Panic) Error() string {
	return fmt.Sprintf("a fault of replypath's, please report it: %v", p.Value)
}

// Caught reads something. A panic is an error of that reading, a *Panic: whatever the host tells, the daemon goes on.
func Caught(read func() error) (err error) {
	defer func() {
		if value := recover(); value != nil {
			err = &Panic{value, debug.Stack()}
		}
	}()
	return read()
}

// LogStack logs at debug where a reading has panicked, if that is what the error tells.
func LogStack(log *slog.Logger, err error) {
	if p, is := errors.AsType[*Panic](err); is {
		log.Debug("a reading has panicked", "error", p, "stack", string(p.Stack))
	}
}
