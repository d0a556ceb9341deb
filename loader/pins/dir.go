// SPDX-License-Identifier: Apache-2.0

package pins

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// Dir is a pin directory that this process owns: it holds an exclusive lock on
// it until Close. The lock ends with the process, whatever ends it.
type Dir struct {
	path    string
	handle  *os.File
	created bool
	passed  time.Time // see Pass
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

// Clear unpins what has one of the names, with everything below, and at last the
// journal. What others have pinned in the directory stays. It goes on after
// errors, but then the journal stays too: without it nobody could tell that what is
// left is ours, to try again.
func (d *Dir) Clear(names ...string) error {
	errs := []error{d.RemoveAtOnce(doctorDir)}
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
