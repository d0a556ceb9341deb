// SPDX-License-Identifier: Apache-2.0

package detach

import (
	"errors"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"replypath/loader/datapath"
)

// Announce has the process that owns a pin directory know, until the result is closed, that
// what it leaves is about to be taken away: there is a lock on the directory of the maps, on which
// nobody else has one. The lock ends with this process. nil where that cannot be done: it is worth
// no more than a line of that process's log.
func Announce(pinDir string) *os.File {
	maps, err := os.Open(filepath.Join(pinDir, datapath.MapsDir))
	if err != nil {
		return nil
	}
	if err := unix.Flock(int(maps.Fd()), unix.LOCK_SH|unix.LOCK_NB); err != nil {
		maps.Close()
		return nil
	}
	return maps
}

// IsAnnounced tells whether somebody has announced that.
func IsAnnounced(pinDir string) bool {
	maps, err := os.Open(filepath.Join(pinDir, datapath.MapsDir))
	if err != nil {
		return false
	}
	defer maps.Close() // which also ends the lock
	return errors.Is(unix.Flock(int(maps.Fd()), unix.LOCK_EX|unix.LOCK_NB), unix.EWOULDBLOCK)
}
