// SPDX-License-Identifier: Apache-2.0

package counters

import (
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
