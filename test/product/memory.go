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
	path := fmt.Sprintf("/proc/%d/status", d.PID())
	text := await.Must1[[]byte](d.t)(os.ReadFile(path))
	for line := range strings.Lines(string(text)) {
		key, value, _ := strings.Cut(line, ":")
		if key != name {
			continue
		}
		kibibytes, isSize := strings.CutSuffix(strings.TrimSpace(value), " kB")
		if !isSize {
			d.t.Fatalf("%s: %s is no size: %q", path, name, value)
		}
		return await.Must1[uint64](d.t)(strconv.ParseUint(kibibytes, 10, 64)) << 10
	}
	d.t.Fatalf("%s has no %s", path, name)
	return 0
}
