// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"errors"
	"log/slog"
	"testing"

	"golang.org/x/sys/unix"
)

// TestNameOfWithoutAnAnswer: a question that the kernel does not answer is no word that the interface has gone.
func TestNameOfWithoutAnAnswer(t *testing.T) {
	l := &Resolver{Netlink: newS1(t).B.Netlink(), Log: slog.New(slog.DiscardHandler)}
	const none, refused = 4711, -1
	if name, err := l.NameOf(none, "eth1"); name != "" || err != nil {
		t.Errorf("of an index that nobody has: %q, %v", name, err)
	}
	if name, err := l.NameOf(refused, "eth1"); name != "" || !errors.Is(err, unix.EINVAL) {
		t.Errorf("of an index that the kernel refuses: %q, %v", name, err)
	}
}
