// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"replypath/loader/config"
	"replypath/test/harness"
	"replypath/test/topology"
)

// openFiles returns what the descriptors of this process refer to. Those of the
// topology and of the runtime are there before and after.
func openFiles(t *testing.T) []string {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	harness.Must(t, err)
	var files []string
	for _, entry := range entries {
		target, err := os.Readlink(filepath.Join("/proc/self/fd", entry.Name()))
		if err == nil && !strings.HasPrefix(target, "/proc/") {
			files = append(files, target)
		}
	}
	slices.Sort(files)
	return files
}

func TestNothingStaysOpen(t *testing.T) {
	s := newS1Alone(t, topology.S1Options{})
	b := newBed(t, s.B.Host)
	// The first round opens what stays for good, such as the kernel's BTF.
	for round, before := 0, []string(nil); round < 3; round++ {
		r := b.start(nil)
		harness.Must(t, r.reload(func(c *config.Config) { c.MaxEntries *= 2 }))
		b.status()
		b.flows()
		b.setMode("observe")
		r.stop()
		b.failAfter(b.failAfter(1, nil), byClsact)
		b.detach()
		b.failAfter(b.failAfter(1, nil), nil)
		after := openFiles(t)
		if diff := cmp.Diff(before, after); round > 0 && diff != "" {
			t.Errorf("open files in round %d (-before +after):\n%s", round, diff)
		}
		before = after
	}
}
