// SPDX-License-Identifier: Apache-2.0

package hostsettings

import (
	"fmt"
	"slices"
	"strings"

	"github.com/prometheus/procfs"
	"golang.org/x/sys/unix"
)

// RPFilterDrops returns how many packets the reverse path filter has dropped in
// the network namespace of the calling thread, nil where the kernel does not
// tell.
func RPFilterDrops() *uint64 {
	thread, err := procfs.NewProc(unix.Gettid())
	if err != nil {
		return nil
	}
	counted, err := thread.Netstat()
	if err != nil || counted.IPReversePathFilter == nil {
		return nil
	}
	return new(uint64(*counted.IPReversePathFilter))
}

// Unseen says in a sentence by which of some interfaces requests are dropped before anything of them is seen, as their
// rp_filter is strict, and how many packets were; "" where none is strict.
func Unseen(interfaces []string) string {
	strict := slices.DeleteFunc(slices.Clone(interfaces), func(name string) bool { return !IsStrict(name) })
	if len(strict) == 0 {
		return ""
	}
	return fmt.Sprintf("what arrives by %s is dropped unseen if the route back leads elsewhere, as rp_filter is strict there%s",
		strings.Join(strict, ", "), Dropped(RPFilterDrops()))
}

// Blind says that observing an interface does not see what its rp_filter drops.
func Blind(name string) string {
	return "interface " + name + " only observes, and its rp_filter is strict"
}

// Dropped says how many packets the reverse path filter has dropped, as the end of a sentence; "" where there are none, or
// nobody knows.
func Dropped(packets *uint64) string {
	switch {
	case packets == nil || *packets == 0:
		return ""
	case *packets == 1:
		return "; 1 packet was dropped so in this network namespace since it began"
	}
	return fmt.Sprintf("; %d packets were dropped so in this network namespace since it began", *packets)
}
