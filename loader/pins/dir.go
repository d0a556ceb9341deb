package pins

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// DefaultDir is where the datapath is pinned unless told otherwise.
const DefaultDir = "/sys/fs/bpf/replypath"

// ErrNoBPFFS says that a directory is not on a BPF file system.
var ErrNoBPFFS = errors.New("not on a bpf file system")

// lockPatience is how long an owner-to-be waits for readers that only look
// whether somebody owns the directory.
const lockPatience = 500 * time.Millisecond

// Dir is a pin directory that this process owns: it holds an exclusive lock on
// it until Close. The lock ends with the process, whatever ends it.
type Dir struct {
	path    string
	handle  *os.File
	created bool
}

// Own creates the directory where it does not exist and makes this process its
// owner. It returns an error that matches ErrOwned while another process is, and
// ErrForeignContents for a directory that serves something else.
func Own(path string) (*Dir, error) {
	for {
		created, err := create(path)
		if err != nil {
			return nil, err
		}
		handle, err := lock(path)
		if errors.Is(err, errRemoved) {
			continue
		}
		if err == nil && !isOurs(path) {
			err = errors.Join(fmt.Errorf("%s: %w: name a directory of its own by --pin-dir", path, ErrForeignContents), handle.Close())
		}
		if err != nil {
			if created {
				err = errors.Join(err, os.Remove(path))
			}
			return nil, err
		}
		return &Dir{path: path, handle: handle, created: created}, nil
	}
}

// OwnExisting is Own for a directory that must hold a datapath; where it does
// not the error matches ErrNone.
func OwnExisting(path string) (*Dir, error) {
	if err := exists(path); err != nil {
		return nil, err
	}
	handle, err := lock(path)
	if errors.Is(err, errRemoved) {
		return nil, fmt.Errorf("%w in %s", ErrNone, path)
	}
	if err != nil {
		return nil, err
	}
	if !isOurs(path) {
		return nil, errors.Join(fmt.Errorf("%w in %s", ErrNone, path), handle.Close())
	}
	return &Dir{path: path, handle: handle}, nil
}

// isOurs tells whether a directory may be used. A journal, or that of the
// repairs, is what is pinned first and unpinned last: what is there without one
// is somebody else's.
func isOurs(path string) bool {
	if is, empty, err := listed(path); is || empty || err != nil {
		return err == nil
	}
	// A listing beside a start or an end may show any part of it.
	for _, name := range []string{journalName, repairsDir} {
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
		return e.Name() == journalName || e.Name() == repairsDir
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
		return fmt.Errorf("%s belongs to user %d, who could replace what is pinned there: look what it is (ls -la %[1]s), and name a directory of your own by --pin-dir",
			shown(path), owner.Uid)
	case info.Mode().Perm()&0o022 != 0:
		return fmt.Errorf("%s may be written by others, who could replace what is pinned there: chmod 700 %[1]s", shown(path))
	}
	return nil
}

func notDirectory(path string) error { return fmt.Errorf("%s is not a directory", shown(path)) }

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

func exists(path string) error {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return noneIn(path)
	case err != nil:
		return fmt.Errorf("open pin directory: %w", err)
	case !info.IsDir():
		return notDirectory(path)
	}
	return nil
}

func noneIn(path string) error { return fmt.Errorf("%w in %s: start replypath run", ErrNone, path) }

// errRemoved says that the directory was removed while its lock was waited for.
var errRemoved = errors.New("it has just been removed")

// lock opens and locks the pin directory.
func lock(path string) (*os.File, error) {
	return lockDirectory(path, "pin directory", func() error { return &OwnedError{Dir: path, PID: OwnerPID(path)} })
}

// lockDirectory returns errRemoved where there is no such directory, and what inUse says where another process has
// its lock. what is what the directory is for.
func lockDirectory(path, what string, inUse func() error) (*os.File, error) {
	handle, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errRemoved
	}
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", what, err)
	}
	if err := lockHandle(handle); err != nil {
		handle.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, inUse()
		}
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	if !IsAt(handle, path) {
		handle.Close()
		return nil, errRemoved
	}
	return handle, nil
}

// lockHandle waits for readers that look whether somebody owns the directory.
func lockHandle(handle *os.File) error {
	deadline := time.Now().Add(lockPatience)
	for {
		err := unix.Flock(int(handle.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if !errors.Is(err, unix.EWOULDBLOCK) || time.Now().After(deadline) {
			return err
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// IsAt tells whether an open directory is still what its path leads to.
func IsAt(handle *os.File, path string) bool {
	locked, err := handle.Stat()
	if err != nil {
		return false
	}
	present, err := os.Stat(path)
	return err == nil && os.SameFile(locked, present)
}

// Owned tells whether a live process owns the directory. It never waits. The error
// matches ErrNone where there is none, as when it has just been removed.
func Owned(path string) (bool, error) {
	handle, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, noneIn(path)
	}
	if err != nil {
		return false, fmt.Errorf("open pin directory: %w", err)
	}
	defer handle.Close() // which also ends the lock
	err = unix.Flock(int(handle.Fd()), unix.LOCK_SH|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return true, nil
	}
	if err != nil {
		return false, fmt.Errorf("look at the lock of %s: %w", path, err)
	}
	return false, nil
}

// Path returns the path of something pinned in the directory.
func (d *Dir) Path(elem ...string) string {
	return filepath.Join(append([]string{d.path}, elem...)...)
}

// Created tells whether Own made the directory.
func (d *Dir) Created() bool { return d.created }

// Close ends the ownership; what is pinned stays.
func (d *Dir) Close() error {
	if d == nil || d.handle == nil {
		return nil
	}
	err := d.handle.Close()
	d.handle = nil
	return err
}

// Renew makes the directory anew, and owns it, where somebody has removed it, moved it away or
// unmounted its file system; true if it did. What is still pinned where it was goes: links keep a
// program attached, and nobody would find them there.
func (d *Dir) Renew(names ...string) (renewed bool, err error) {
	if IsAt(d.handle, d.path) {
		return false, nil
	}
	again, err := Own(d.path)
	if err != nil {
		return false, err
	}
	if again.Has(journalName) {
		return false, errors.Join(fmt.Errorf("%s: another datapath is pinned there meanwhile", shown(d.path)), again.Close())
	}
	before := &Dir{path: fmt.Sprintf("/proc/self/fd/%d", d.handle.Fd()), handle: d.handle}
	d.handle = again.handle
	return true, errors.Join(before.Clear(names...), before.Close())
}

// Clear unpins what has one of the names, with everything below, and at last the
// journal. What others have pinned in the directory stays. It goes on after
// errors, but then the journal stays too: without it nobody could tell that what is
// left is ours, to try again.
func (d *Dir) Clear(names ...string) error {
	var errs []error
	for _, name := range names {
		errs = append(errs, d.RemoveAtOnce(name))
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return removeTree(d.Path(journalName))
}

// Remove is Clear and removes the directory, unless something is left in it, and
// ends the ownership.
func (d *Dir) Remove(names ...string) error {
	if err := d.Clear(names...); err != nil {
		return errors.Join(err, d.Close())
	}
	err := os.Remove(d.path)
	if errors.Is(err, unix.ENOTEMPTY) || errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return errors.Join(err, d.Close())
}

// goneSuffix marks what is being removed. A BPF file system takes no dots in names.
const goneSuffix = "-gone"

// RemoveAtOnce unpins what has the name, with everything below. Readers see all of
// it vanish in one step. What is not there is no error.
func (d *Dir) RemoveAtOnce(name string) error {
	path := d.Path(name)
	gone := path + goneSuffix
	// An earlier process may have been killed in the middle of it.
	if err := removeTree(gone); err != nil {
		return err
	}
	if err := os.Rename(path, gone); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("unpin: %w", err)
	}
	return removeTree(gone)
}

// Supplant puts what has the first name in the place of what has the second, if
// anything, which gets the third name. For a moment nothing has the second name; a
// process that is killed in it leaves it so.
func (d *Dir) Supplant(by, name, old string) error {
	if err := d.RemoveAtOnce(old); err != nil {
		return err
	}
	if err := d.Rename(name, old); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return d.Rename(by, name)
}

// Rename gives what has a name another one, which nothing has.
func (d *Dir) Rename(from, to string) error {
	if err := os.Rename(d.Path(from), d.Path(to)); err != nil {
		return fmt.Errorf("rename pins: %w", err)
	}
	return nil
}

// Has tells whether something of this name is pinned in the directory.
func (d *Dir) Has(name string) bool {
	_, err := os.Lstat(d.Path(name))
	return err == nil
}

// removeTree is os.RemoveAll for bpffs, where a directory that is being read
// cannot be changed on old kernels: it reads first and removes then.
func removeTree(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look at a pin: %w", err)
	}
	var errs []error
	if info.IsDir() {
		entries, err := os.ReadDir(path)
		errs = append(errs, err)
		for _, entry := range entries {
			errs = append(errs, removeTree(filepath.Join(path, entry.Name())))
		}
	}
	if err := os.Remove(path); err != nil {
		errs = append(errs, fmt.Errorf("unpin: %w", err))
	}
	return errors.Join(errs...)
}
