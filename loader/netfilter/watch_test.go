// SPDX-License-Identifier: Apache-2.0

package netfilter

import (
	"errors"
	"testing"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"replypath/loader/problems"
)

// TestPanicIsAnError: a fault in what reads rules is an error of that reading, and what was known stays.
func TestPanicIsAnError(t *testing.T) {
	w := Watcher{tables: &nfTables{map[int]*nl.SocketHandle{unix.NETLINK_NETFILTER: nil}}} // without a socket
	w.Look(time.Now())
	w.note(<-w.reading)
	_, err := w.Translated()
	if p, is := errors.AsType[*problems.Panic](err); !is {
		t.Errorf("the error is %v, a panic %v", err, p)
	}
}
