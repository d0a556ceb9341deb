// SPDX-License-Identifier: Apache-2.0

package host

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"replypath/test/await"
)

// cgroupPrefix begins the names of control groups that tests make.
const cgroupPrefix = "replypath-test-"

// NewCgroup makes a control group, which is removed with those below it at the end of the test.
func NewCgroup(t testing.TB) *os.File {
	t.Helper()
	mounts := string(await.Must1[[]byte](t)(os.ReadFile("/proc/self/mounts")))
	for line := range strings.Lines(mounts) {
		fields := strings.Fields(line)
		if fields[2] != "cgroup2" {
			continue
		}
		path := await.Must1[string](t)(os.MkdirTemp(fields[1], cgroupPrefix))
		group := await.Must1[*os.File](t)(os.Open(path))
		t.Cleanup(func() {
			group.Close()
			await.Eventually(t, "the control groups are empty", func() error { return removeCgroup(path) })
		})
		return group
	}
	t.Fatal("no cgroup2 file system is mounted")
	return nil
}

// removeCgroup removes a control group and those below it.
func removeCgroup(path string) error {
	var groups []string
	err := filepath.WalkDir(path, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && entry.IsDir() {
			groups = append(groups, path)
		}
		return err
	})
	for _, group := range slices.Backward(groups) {
		err = errors.Join(err, unix.Rmdir(group))
	}
	return err
}
