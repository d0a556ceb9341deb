// SPDX-License-Identifier: Apache-2.0

package pins

import (
	"bufio"
	"fmt"
	"os"
	"strconv"
	"strings"

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

// OwnPID returns the number that a process has for itself, in the PID namespace that it runs in,
// and the one by which it is seen from here where that cannot be told.
func OwnPID(pid int) int {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return pid
	}
	return ownPIDIn(string(status), pid)
}

// ownPIDIn reads /proc/PID/status (proc_pid_status(5)), with the numbers from this PID namespace's to the
// process's own:
//
//	NSpid:	4711	1
func ownPIDIn(status string, otherwise int) int {
	if numbers := fieldsIn(status, "NSpid:"); len(numbers) > 0 {
		if own, err := strconv.Atoi(numbers[len(numbers)-1]); err == nil {
			return own
		}
	}
	return otherwise
}

// fieldsIn returns what stands behind a key in /proc/PID/status, none where there is no such line.
func fieldsIn(status, key string) []string {
	for line := range strings.Lines(status) {
		if values, is := strings.CutPrefix(line, key); is {
			return strings.Fields(values)
		}
	}
	return nil
}
