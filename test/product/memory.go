// SPDX-License-Identifier: Apache-2.0

package product

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"replypath/test/await"
)

// Memory returns a figure of the daemon's /proc/PID/status, such as VmRSS, in bytes.
func (d *Daemon) Memory(name string) uint64 {
	d.t.Helper()
	return await.Must1[uint64](d.t)(Memory(d.PID(), name))
}

// Memory returns a figure of a process; a process that has ended has none.
func Memory(pid int, name string) (bytes uint64, err error) {
	path := fmt.Sprintf("/proc/%d/status", pid)
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		key, value, _ := strings.Cut(line, ":")
		if key != name {
			continue
		}
		kibibytes, err := strconv.ParseUint(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 64)
		return kibibytes << 10, err
	}
	return 0, fmt.Errorf("%s has no %s", path, name)
}
