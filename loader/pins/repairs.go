// SPDX-License-Identifier: Apache-2.0

package pins

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/cilium/ebpf/rlimit"
	"golang.org/x/sys/unix"
)

// Repairs are the changes of the host that `replypath doctor --fix` made. They
// stand in a journal of their own, because the other one belongs to the process
// that owns the pins, and this command works beside it, and before there is any.
type Repairs struct {
	Namespace Namespace      `json:"namespace"`
	Sysctls   []RepairRecord `json:"sysctls"`
}

// RepairRecord is a sysctl that was changed, or was about to be. Nobody watches
// the interface meanwhile: what it was called, and its MAC, tell whether the
// index is still its own.
type RepairRecord struct {
	SysctlRecord
	Name string `json:"name"` // of the interface, empty for a sysctl of the host
	MAC  string `json:"mac"`
}

// RepairsJournal is the journal of repairs, locked until Close.
type RepairsJournal struct {
	pinDir string
	handle *os.File
	text   *textMap
}

// OwnRepairs opens the journal of repairs of a pin directory, and makes both
// where they do not exist. One that is of another network namespace is refused
// with ErrForeignNamespace, a directory that serves something else with
// ErrForeignContents.
func OwnRepairs(pinDir string) (*RepairsJournal, error) {
	// Before 5.11 maps count as locked memory.
	if err := rlimit.RemoveMemlock(); err != nil {
		return nil, fmt.Errorf("raise the limit of locked memory: %w", err)
	}
	for {
		j := &RepairsJournal{pinDir: pinDir}
		if err := j.create(); err != nil {
			return nil, err
		}
		err := j.open(func() (err error) {
			j.text, _, err = createText(j.path(journalName))
			return err
		})
		if err == nil {
			return j, nil
		}
		if !errors.Is(err, errRemoved) {
			return nil, err
		}
	}
}

// OwnExistingRepairs is OwnRepairs where there is such a journal, nil where
// there is none.
func OwnExistingRepairs(pinDir string) (*RepairsJournal, error) {
	j := &RepairsJournal{pinDir: pinDir}
	err := j.open(func() (err error) {
		j.text, err = openText(j.path(journalName))
		return err
	})
	if errors.Is(err, errRemoved) || errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return j, nil
}

// open locks the directory and opens the text in it. Where that fails, nothing is
// left open, nor a directory without a text.
func (j *RepairsJournal) open(text func() error) (err error) {
	j.handle, err = lockDirectory(j.path(), "the journal of repairs", func() error {
		return fmt.Errorf("%s is in use: another replypath doctor --fix is at work, try again", j.path())
	})
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, j.Close())
		}
	}()
	if err := text(); err != nil {
		return err
	}
	repairs, err := j.Read()
	if err != nil {
		return err
	}
	return repairs.Namespace.check(j.pinDir)
}

func (j *RepairsJournal) path(elem ...string) string {
	return filepath.Join(append([]string{j.pinDir, repairsDir}, elem...)...)
}

// create makes the directories, unless the upper one is somebody else's.
func (j *RepairsJournal) create() error {
	if _, err := os.Stat(j.pinDir); err == nil && !isOurs(j.pinDir) {
		return fmt.Errorf("%s: %w: name a directory of its own by --pin-dir", j.pinDir, ErrForeignContents)
	}
	_, err := create(j.path())
	return err
}

// Read returns what was written, empty at first.
func (j *RepairsJournal) Read() (*Repairs, error) { return readDocument[Repairs](j.text) }

// Write replaces what was written.
func (j *RepairsJournal) Write(repairs *Repairs) error { return j.text.write(repairs) }

// Remove unpins the journal and removes its directory, and the pin directory
// unless it holds something else.
func (j *RepairsJournal) Remove() error {
	if err := removeTree(j.path()); err != nil {
		return err
	}
	err := os.Remove(j.pinDir)
	if errors.Is(err, unix.ENOTEMPTY) || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// Close ends the lock. A journal without a change in it goes.
func (j *RepairsJournal) Close() error {
	if j == nil || j.handle == nil {
		return nil
	}
	var errs []error
	if j.isEmpty() {
		errs = append(errs, j.Remove())
	}
	if j.text != nil {
		errs = append(errs, j.text.close())
	}
	err := errors.Join(append(errs, j.handle.Close())...)
	j.handle = nil
	return err
}

// isEmpty tells whether no change is written down.
func (j *RepairsJournal) isEmpty() bool {
	if j.text == nil {
		_, err := os.Stat(j.path(journalName))
		return errors.Is(err, fs.ErrNotExist)
	}
	repairs, err := j.Read()
	return err == nil && len(repairs.Sysctls) == 0
}

// ReadRepairs reads the journal of repairs of a pin directory, nil where there
// is none. The error matches ErrForeignNamespace where it is of another network
// namespace.
func ReadRepairs(pinDir string) (*Repairs, error) {
	text, err := openText(filepath.Join(pinDir, repairsDir, journalName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer text.close()
	repairs, err := readDocument[Repairs](text)
	if err != nil {
		return nil, err
	}
	return repairs, repairs.Namespace.check(pinDir)
}
