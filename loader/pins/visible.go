// SPDX-License-Identifier: Apache-2.0

package pins

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"github.com/prometheus/procfs"
	"golang.org/x/sys/unix"
)

// Visible returns where a pin directory can be reached by this process, for as
// long as it lives. `ip netns exec` mounts a new /sys over that of its caller,
// which hides the BPF file system in it, and what is pinned into one that is
// mounted there ends with the command. The caller's own can still be reached by
// way of the process that called.
func Visible(path string) string {
	var roots []string
	for _, process := range Ancestors() {
		roots = append(roots, filepath.Join(process, "root"))
	}
	return visible(path, roots)
}

func visible(path string, roots []string) string {
	if checkFileSystem(existingParent(path)) == nil {
		return path
	}
	for _, root := range roots {
		hidden := filepath.Join(root, path)
		parent := existingParent(hidden)
		if checkFileSystem(parent) != nil {
			continue
		}
		// Processes end, and their roots with them: hold on to the directory.
		handle, err := unix.Open(parent, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			continue
		}
		below, err := filepath.Rel(parent, hidden)
		if err != nil {
			unix.Close(handle)
			continue
		}
		return filepath.Join("/proc/self/fd", strconv.Itoa(handle), below)
	}
	return path
}

// Ancestors returns the directories in /proc of the processes that led to this
// one, the nearest first.
func Ancestors() []string {
	var processes []string
	for pid := os.Getppid(); pid > 0; pid = parent(pid) {
		processes = append(processes, fmt.Sprintf("/proc/%d", pid))
	}
	return processes
}

// parent returns the parent of a process, 0 where it cannot be told.
func parent(pid int) int {
	process, err := procfs.NewProc(pid)
	if err != nil {
		return 0
	}
	stat, err := process.Stat()
	if err != nil {
		return 0
	}
	return stat.PPID
}
