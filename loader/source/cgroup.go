// SPDX-License-Identifier: Apache-2.0

package source

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"replypath/loader/pins"
)

// ErrNoCgroup says that no cgroup2 file system is mounted.
var ErrNoCgroup = errors.New("no cgroup2 file system is mounted")

// self is the directory of this process.
const self = "/proc/self"

// Cgroup returns a path to the topmost cgroup that this process can reach, for
// immediate use. Hosts that use both versions of cgroups have the second at
// another place than others. `ip netns exec` mounts a new /sys, which hides the
// caller's with all that is mounted in it: the caller's cgroup is used then. The
// error matches ErrNoCgroup where there is none.
func Cgroup() (string, error) {
	for _, process := range append([]string{self}, pins.Ancestors()...) {
		if process != self && hasOurSys(process) {
			continue
		}
		path, err := cgroupOf(process)
		if err == nil || !errors.Is(err, ErrNoCgroup) {
			return path, err
		}
	}
	return "", fmt.Errorf("%w: mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified (or reboot with systemd.unified_cgroup_hierarchy=1)", ErrNoCgroup)
}

// hasOurSys tells whether a process sees the same /sys as this one, or cannot be
// asked. Every network namespace has a sysfs of its own.
func hasOurSys(process string) bool {
	var ours, theirs unix.Stat_t
	err := errors.Join(unix.Stat("/sys", &ours), unix.Stat(filepath.Join(process, "root/sys"), &theirs))
	return err != nil || ours.Dev == theirs.Dev
}

// cgroupOf looks through the mounts of a process, which is given by its
// directory in /proc. A mount may be hidden by another above it.
func cgroupOf(process string) (string, error) {
	mounts, err := readMounts(filepath.Join(process, "mountinfo"))
	if errors.Is(err, os.ErrNotExist) {
		return "", ErrNoCgroup // the process has ended
	}
	if err != nil {
		return "", fmt.Errorf("look for cgroup2: %w", err)
	}
	for _, mount := range mounts {
		path := mount.Mountpoint
		if process != self {
			path = filepath.Join(process, "root", path)
		}
		if isCgroup2(path) {
			return path, nil
		}
	}
	return "", ErrNoCgroup
}

// readMounts lists the mounts of cgroup2, those of the whole hierarchy first.
func readMounts(path string) ([]*mountinfo.Info, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	found, err := mountinfo.GetMountsFromReader(file, mountinfo.FSTypeFilter("cgroup2"))
	var whole, parts []*mountinfo.Info
	for _, mount := range found {
		if mount.Root == "/" {
			whole = append(whole, mount)
		} else {
			parts = append(parts, mount)
		}
	}
	return append(whole, parts...), err
}

func isCgroup2(path string) bool {
	var stat unix.Statfs_t
	return unix.Statfs(path, &stat) == nil && stat.Type == unix.CGROUP2_SUPER_MAGIC
}
