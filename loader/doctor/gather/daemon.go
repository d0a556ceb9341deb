// SPDX-License-Identifier: Apache-2.0

package gather

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"strings"

	"replypath/loader/doctor/snapshot"
	"replypath/loader/pins"
)

// unitCGroup is what systemd calls the control group of the unit.
const unitCGroup = "/replypath.service"

// daemonOf returns who holds a pin directory, nil for nobody. Its process is asked
// of the kernel alone: what it wrote down may be the number of another one here.
func daemonOf(pinDir string) (*snapshot.Daemon, error) {
	owned, err := pins.Owned(pinDir)
	if errors.Is(err, pins.ErrNone) { // it was removed a moment ago
		return nil, nil
	}
	if err != nil || !owned {
		return nil, err
	}
	pid, err := pins.Holder(pinDir)
	if err != nil || pid == 0 {
		return &snapshot.Daemon{}, nil // it is there, whoever it is
	}
	groups, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid)) // one that cannot be read is not known to be the unit's
	return &snapshot.Daemon{PID: pid, Unit: inUnit(string(groups))}, nil
}

// owner is who holds a pin directory, as the kernel and the journal say.
type owner struct {
	holder int   // 0: nobody, or a process in a PID namespace that cannot be looked into
	named  int   // the daemon, by its number in its own PID namespace; 0: none
	since  int64 // when its configuration was loaded: another daemon may have the same numbers
}

// noHolder is the holder of a directory of which it cannot be told, as it has just been removed.
const noHolder = -1

func ownerOf(pinDir string) (owner, error) {
	holder, err := pins.Holder(pinDir)
	if err != nil {
		holder = noHolder
	}
	journal, err := pins.ReadJournal(pinDir)
	if err != nil {
		return owner{}, err
	}
	return owner{holder, journal.PID, journal.LoadedAt.UnixNano()}, nil
}

// isTakenAway tells that the pins are gone, have changed hands since an owner held them, or are
// held by another process than the daemon that the journal names. What is removed last is looked
// at last.
func isTakenAway(pinDir string, since owner) bool {
	owned, err := pins.Owned(pinDir)
	now, err2 := ownerOf(pinDir)
	if err := cmp.Or(err, err2); err != nil {
		return errors.Is(err, pins.ErrNone)
	}
	return now != since || owned && !now.isDaemon()
}

// isDaemon tells whether the holder of an owned directory is the daemon. One that cannot be seen is,
// as who takes a datapath away names no daemon any more before it begins.
func (o owner) isDaemon() bool {
	return o.named != 0 && (o.holder == 0 || pins.OwnPID(o.holder) == o.named)
}

// inUnit reads what /proc/PID/cgroup says, a hierarchy a line (cgroups(7)).
func inUnit(groups string) bool {
	return strings.Contains(groups+"\n", unitCGroup+"\n")
}
