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

// isTakenAway tells that the pins are gone or others' since a snapshot, or are held by a process that is no daemon: who takes a
// datapath away names none in the journal before it begins. What is removed last is looked at last.
func isTakenAway(pinDir string, since *snapshot.InForce) bool {
	owned, err := pins.Owned(pinDir)
	journal, err2 := pins.ReadJournal(pinDir)
	if err := cmp.Or(err, err2); err != nil {
		return errors.Is(err, pins.ErrNone)
	}
	return owned && journal.PID == 0 || !journal.LoadedAt.Equal(since.LoadedAt)
}

// inUnit reads what /proc/PID/cgroup says, a hierarchy a line (cgroups(7)).
func inUnit(groups string) bool {
	return strings.Contains(groups+"\n", unitCGroup+"\n")
}
