// SPDX-License-Identifier: Apache-2.0

package netfilter

import (
	"errors"
	"testing"
	"time"

	"replypath/loader/problems"
)

// TestPanicIsAnError: a fault in what reads rules is an error of that reading, and what was known stays.
func TestPanicIsAnError(t *testing.T) {
	w := Watcher{tables: new(nfTables)} // without a connection
	w.Look(time.Now())
	_, err := w.Translated()
	if p, is := errors.AsType[*problems.Panic](err); !is {
		t.Errorf("the error is %v, a panic %v", err, p)
	}
}
