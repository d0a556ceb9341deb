// SPDX-License-Identifier: Apache-2.0

package pins

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"
)

// DefaultDir is where the datapath is pinned unless told otherwise.
const DefaultDir = "/sys/fs/bpf/replypath"

// ErrNoBPFFS says that a directory is not on a BPF file system.
var ErrNoBPFFS = errors.New("not on a bpf file system")

// journalName is what the journal is pinned as.
const journalName = "journal"

// doctorDir is a directory below the pin directory that earlier versions made for `doctor --fix`. It is ours, and goes
// with the rest.
const doctorDir = "doctor"

// CheckPlace returns an error where this process could not pin into a directory, which need not exist. It
// matches ErrNoBPFFS, ErrForeignContents, fs.ErrPermission or unix.EROFS.
func CheckPlace(path string) error {
	place, exists := path, true
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		place, exists = existingParent(path), false
	} else if err != nil {
		return fmt.Errorf("look at the pin directory: %w", err)
	}
	if err := checkFileSystem(place); err != nil {
		return err
	}
	if err := unix.Access(place, unix.R_OK|unix.W_OK|unix.X_OK); err != nil {
		return fmt.Errorf("pin into %s: %w", Shown(place), err)
	}
	if !exists {
		return nil
	}
	if !isOurs(path) {
		return fmt.Errorf("%s: %w", Shown(path), ErrForeignContents)
	}
	return checkOwner(path, info)
}

// isOurs tells whether a directory may be used. A journal is what is pinned first
// and unpinned last: what is there without one is somebody else's.
func isOurs(path string) bool {
	if is, empty, err := listed(path); is || empty || err != nil {
		return err == nil
	}
	// A listing beside a start or an end may show any part of it.
	for _, name := range []string{journalName, doctorDir} {
		if _, err := os.Lstat(filepath.Join(path, name)); err == nil {
			return true
		}
	}
	is, empty, err := listed(path)
	return is || empty || errors.Is(err, fs.ErrNotExist)
}

// listed tells whether a journal stands in the listing of a directory, or nothing at all.
func listed(path string) (journal, empty bool, err error) {
	entries, err := os.ReadDir(path)
	return slices.ContainsFunc(entries, func(e os.DirEntry) bool {
		return e.Name() == journalName || e.Name() == doctorDir
	}), err == nil && len(entries) == 0, err
}

// create makes the directory, readable by root only, if its parent is on a BPF
// file system.
func create(path string) (created bool, err error) {
	if err := checkFileSystem(existingParent(path)); err != nil {
		return false, err
	}
	if info, err := os.Stat(path); err == nil {
		if err := checkFileSystem(path); err != nil {
			return false, err
		}
		return false, checkOwner(path, info)
	}
	if err := os.MkdirAll(path, 0o700); err != nil {
		return false, fmt.Errorf("create pin directory: %w", err)
	}
	return true, nil
}

// checkOwner refuses a directory that others may change: a bpf file system that was mounted without a mode
// lets everybody make one.
func checkOwner(path string, info os.FileInfo) error {
	if !info.IsDir() {
		return notDirectory(path)
	}
	owner, is := info.Sys().(*syscall.Stat_t)
	switch {
	case is && owner.Uid != 0 && int(owner.Uid) != os.Geteuid():
		return fmt.Errorf("%s belongs to user %d, who could replace what is pinned there. Look what it is (ls -la %[1]s), and name a directory of your own by --pin-dir",
			Shown(path), owner.Uid)
	case info.Mode().Perm()&0o022 != 0:
		return fmt.Errorf("%s may be written by others, who could replace what is pinned there: chmod 700 %[1]s", Shown(path))
	}
	return nil
}

// existingParent returns the deepest directory above path that exists.
func existingParent(path string) string {
	for dir := filepath.Dir(path); ; dir = filepath.Dir(dir) {
		if _, err := os.Stat(dir); err == nil || dir == filepath.Dir(dir) {
			return dir
		}
	}
}

func checkFileSystem(path string) error {
	var stat unix.Statfs_t
	if err := unix.Statfs(path, &stat); err != nil {
		return fmt.Errorf("look at the file system of %s: %w", path, err)
	}
	if stat.Type != unix.BPF_FS_MAGIC {
		return fmt.Errorf("%s is %w: mount -t bpf bpf /sys/fs/bpf", path, ErrNoBPFFS)
	}
	return nil
}
