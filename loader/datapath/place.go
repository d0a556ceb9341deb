// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"replypath/loader/pins"
)

// Directories below the pin directory. What belongs to one datapath is pinned
// below MapsDir, and is put in place all at once.
const (
	MapsDir     = "maps"
	LinksDir    = "links"
	newMapsDir  = "maps-new" // is about to take the place of MapsDir
	oldMapsDir  = "maps-old" // whose place it took
	programsDir = "programs" // below MapsDir
)

// PinNames returns the names of everything that is pinned in a directory beside
// the journal.
func PinNames() []string { return []string{MapsDir, newMapsDir, oldMapsDir, LinksDir} }

const (
	swapPatience = time.Second // two renames
	swapAttempts = 10          // at least: on a busy machine one alone may take longer than that
	swapPoll     = time.Millisecond
)

// errSwapped says that what was opened was being replaced.
var errSwapped = errors.New("the pinned maps are being replaced")

// withPinned calls open with a path to the directory of the maps. What it opens
// there is of one datapath: it is called again where another took its place
// meanwhile. The error matches pins.ErrNone where nothing is pinned.
func withPinned(dir string, open func(path string) error) error {
	deadline := time.Now().Add(swapPatience)
	for attempt := 1; ; attempt++ {
		err := openOnce(dir, open)
		if !errors.Is(err, errSwapped) || attempt >= swapAttempts && time.Now().After(deadline) {
			return err
		}
		time.Sleep(swapPoll)
	}
}

func openOnce(dir string, open func(path string) error) error {
	path := filepath.Join(dir, MapsDir)
	handle, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		// The new ones may have come, and those of before gone, since a moment ago: in this order.
		for _, name := range []string{oldMapsDir, MapsDir} {
			if _, err := os.Stat(filepath.Join(dir, name)); err == nil {
				return errSwapped
			}
		}
		return fmt.Errorf("%w in %s: start replypath run", pins.ErrNone, dir)
	}
	if err != nil {
		return fmt.Errorf("open the directory of the maps: %w", err)
	}
	defer handle.Close()
	// By its descriptor, which leads to the same directory under whatever name.
	err = open(fmt.Sprintf("/proc/self/fd/%d", handle.Fd()))
	if err != nil && !pins.IsAt(handle, path) {
		return errors.Join(errSwapped, err)
	}
	return err
}

// Settle finishes what a process left that was killed while it put a datapath
// in place: the earlier one counts. Pin removes what that process has pinned aside.
func Settle(dir *pins.Dir) error {
	if !dir.Has(MapsDir) && dir.Has(oldMapsDir) {
		if err := dir.Rename(oldMapsDir, MapsDir); err != nil {
			return err
		}
	}
	return dir.RemoveAtOnce(oldMapsDir)
}

// PutBack puts the maps and programs that Pin has left aside, if there are any, in
// the place of those that took theirs.
func PutBack(dir *pins.Dir) error {
	if dir.Has(oldMapsDir) {
		if err := dir.Supplant(oldMapsDir, MapsDir, newMapsDir); err != nil {
			return err
		}
	}
	return dir.RemoveAtOnce(newMapsDir)
}

// Aside opens the programs that PutBack puts back, and tells where their maps are.
func Aside(dir *pins.Dir) (programs *ProgramSet, maps string, err error) {
	maps = dir.Path(MapsDir)
	if dir.Has(oldMapsDir) {
		maps = dir.Path(oldMapsDir)
	}
	programs, err = openPrograms(filepath.Join(maps, programsDir))
	return programs, maps, err
}
