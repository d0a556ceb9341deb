// SPDX-License-Identifier: Apache-2.0

package pins

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// lockPatience is how long an owner-to-be waits for readers that only look
// whether somebody owns the directory.
const lockPatience = 500 * time.Millisecond

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
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, noneIn(path)
	case err != nil:
		return nil, fmt.Errorf("open pin directory: %w", err)
	case !info.IsDir():
		return nil, notDirectory(path)
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

// errRemoved says that the directory was removed while its lock was waited for.
var errRemoved = errors.New("it has just been removed")

// lock opens and locks the pin directory. It returns errRemoved where there is none.
func lock(path string) (*os.File, error) {
	handle, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errRemoved
	}
	if err != nil {
		return nil, fmt.Errorf("open pin directory: %w", err)
	}
	if err := lockHandle(handle); err != nil {
		handle.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, &OwnedError{Dir: path, PID: OwnerPID(path)}
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

// Pass notes once a second for other processes that the owner works, see Passed.
func (d *Dir) Pass() error {
	if time.Since(d.passed) < time.Second {
		return nil
	}
	d.passed = time.Now()
	now := unix.NsecToTimeval(d.passed.UnixNano())
	if err := unix.Futimes(int(d.handle.Fd()), []unix.Timeval{now, now}); err != nil {
		return fmt.Errorf("set the time of %s: %w", Shown(d.path), err)
	}
	return nil
}

// Passed tells when the owner of a directory worked last, which is its time of modification.
func Passed(path string) (time.Time, error) {
	info, err := os.Stat(path)
	if err != nil {
		return time.Time{}, fmt.Errorf("look at %s: %w", path, err)
	}
	return info.ModTime(), nil
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
		return false, errors.Join(fmt.Errorf("%s: another datapath is pinned there meanwhile", Shown(d.path)), again.Close())
	}
	before := &Dir{path: fmt.Sprintf("/proc/self/fd/%d", d.handle.Fd()), handle: d.handle}
	d.handle = again.handle
	return true, errors.Join(before.Clear(names...), before.Close())
}
