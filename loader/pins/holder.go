// SPDX-License-Identifier: Apache-2.0

package pins

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/procfs"
	"golang.org/x/sys/unix"
)

// Holder returns the process that holds the exclusive lock of the directory, as
// /proc/locks shows it: 0 for none, or for one in another PID namespace.
func Holder(path string) (int, error) {
	var stat unix.Stat_t
	if err := unix.Stat(path, &stat); err != nil {
		return 0, fmt.Errorf("look at %s: %w", path, err)
	}
	locks, err := os.Open("/proc/locks")
	if err != nil {
		return 0, fmt.Errorf("find out who owns %s: %w", path, err)
	}
	defer locks.Close()
	inode := fmt.Sprintf("%02x:%02x:%d", unix.Major(stat.Dev), unix.Minor(stat.Dev), stat.Ino)
	lines := bufio.NewScanner(locks)
	for lines.Scan() {
		if pid := holderIn(lines.Text(), inode); pid != 0 {
			return pid, nil
		}
	}
	return 0, lines.Err()
}

// EndHolder sends a signal to the process that holds the lock of a directory, and waits for its end, or that of ctx, within
// endPatience. The process is held by a descriptor before it is looked for once more, so that no other can get its number
// in between. It returns 0 where Holder does, or the process has just ended.
func EndHolder(ctx context.Context, path string, signal unix.Signal) (pid int, err error) {
	if pid, err = Holder(path); pid == 0 || err != nil {
		return 0, err
	}
	process, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return 0, nil
	}
	if err != nil {
		return pid, fmt.Errorf("open process %d: %w", pid, err)
	}
	defer unix.Close(process)
	if again, err := Holder(path); again != pid || err != nil {
		return 0, err
	}
	if err := unix.PidfdSendSignal(process, signal, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return pid, fmt.Errorf("send a signal to process %d: %w", pid, err)
	}
	ctx, cancel := context.WithTimeout(ctx, endPatience)
	defer cancel()
	for ctx.Err() == nil {
		const milliseconds = 100 // after which ctx is looked at
		ended, err := unix.Poll([]unix.PollFd{{Fd: int32(process), Events: unix.POLLIN}}, milliseconds)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return pid, fmt.Errorf("wait for process %d: %w", pid, err)
		}
		if ended > 0 {
			return pid, nil
		}
	}
	return pid, fmt.Errorf("process %d does not end: %w", pid, context.Cause(ctx))
}

// endPatience is how long a process has to end after it was told to.
const endPatience = 15 * time.Second

// holderIn reads a line of /proc/locks (fs/locks.c, lock_get_status):
//
//	3: FLOCK  ADVISORY  WRITE 4711 00:20:5 0 EOF
//
// Who waits for a lock has an arrow behind the number.
func holderIn(line, inode string) int {
	fields := strings.Fields(line)
	if len(fields) < 6 || fields[1] != "FLOCK" || fields[3] != "WRITE" || fields[5] != inode {
		return 0
	}
	pid, _ := strconv.Atoi(fields[4])
	return max(0, pid)
}

// OwnerPID returns the process ID of the owner as well as it can be told: what
// it wrote down serves where its PID namespace is another.
func OwnerPID(path string) int {
	if pid, err := Holder(path); err == nil && pid != 0 {
		return pid
	}
	journal, err := readAnyJournal(path)
	if err != nil {
		return 0
	}
	return journal.PID
}

// statusOf reads /proc/PID/status. The error matches fs.ErrNotExist where there is no such process.
func statusOf(pid int) (status procfs.ProcStatus, err error) {
	process, err := procfs.NewProc(pid)
	if err != nil {
		return status, err
	}
	return process.NewStatus()
}
