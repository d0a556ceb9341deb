// SPDX-License-Identifier: Apache-2.0

package detach

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"replypath/loader/datapath"
	"replypath/loader/pins"
)

// stopPatience is how long a process has to end after SIGTERM.
const stopPatience = 15 * time.Second

// stopOwner ends the process that owns a pin directory and waits for its end.
// The process is held by a descriptor before it is looked up among the owners of
// locks, so that no other can get its number in between.
func stopOwner(ctx context.Context, path string) error {
	pid, err := pins.Holder(path)
	if err != nil {
		return err
	}
	if pid == 0 {
		return fmt.Errorf("the process that owns %s is not known from here: end it first", path)
	}
	process, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open process %d: %w", pid, err)
	}
	defer unix.Close(process)
	if holder, err := pins.Holder(path); err != nil || holder != pid {
		return err
	}
	err = unix.PidfdSendSignal(process, unix.SIGTERM, nil, 0)
	if err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("end process %d: %w", pid, err)
	}
	return awaitEnd(ctx, process, pid)
}

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

// awaitEnd waits until the process behind a descriptor has ended.
func awaitEnd(ctx context.Context, process, pid int) error {
	ctx, cancel := context.WithTimeout(ctx, stopPatience)
	defer cancel()
	wake, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err != nil {
		return fmt.Errorf("wait for process %d: %w", pid, err)
	}
	woken := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(woken)
		// Eight bytes other than zero make it readable (eventfd(2)).
		_, _ = unix.Write(wake, []byte{1, 1, 1, 1, 0, 0, 0, 0})
	})
	defer func() {
		if !stop() {
			<-woken // the descriptor may be another's once it is closed
		}
		unix.Close(wake)
	}()
	fds := []unix.PollFd{{Fd: int32(process), Events: unix.POLLIN}, {Fd: int32(wake), Events: unix.POLLIN}}
	for {
		_, err := unix.Poll(fds, -1)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return fmt.Errorf("wait for process %d: %w", pid, err)
		case fds[0].Revents != 0:
			return nil
		default:
			return fmt.Errorf("process %d does not end: %w", pid, context.Cause(ctx))
		}
	}
}
