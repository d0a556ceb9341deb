package doctor

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"replypath/loader/pins"
)

// unitCGroup is what systemd calls the control group of the unit.
const unitCGroup = "/replypath.service"

// daemonOf returns who holds a pin directory, nil for nobody. Its process is asked
// of the kernel alone: what it wrote down may be the number of another one here.
func daemonOf(pinDir string) (*Daemon, error) {
	owned, err := pins.Owned(pinDir)
	if errors.Is(err, pins.ErrNone) { // it was removed a moment ago
		return nil, nil
	}
	if err != nil || !owned {
		return nil, err
	}
	pid, err := pins.Holder(pinDir)
	if err != nil || pid == 0 {
		return &Daemon{}, nil // it is there, whoever it is
	}
	groups, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid)) // one that cannot be read is not known to be the unit's
	return &Daemon{PID: pid, Unit: inUnit(string(groups))}, nil
}

const (
	detachTime = 10 * time.Second // on a busy machine
	detachPoll = 20 * time.Millisecond
)

// gatherSettled is gather for a host from which a datapath may be taken away meanwhile: the
// programs go first, and last what tells that they should be there. Where they are missing
// it waits for the end of that.
func gatherSettled(options Options) (*Host, error) {
	for deadline := time.Now().Add(detachTime); ; time.Sleep(detachPoll) {
		holder, _ := pins.Holder(options.PinDir) // 0 where there are no pins
		host, err := gather(options)
		if err != nil || len(missingPrograms(host)) == 0 || time.Now().After(deadline) || !isTakenAway(options.PinDir, holder) {
			return host, err
		}
	}
}

// isTakenAway tells that the pins are gone, have changed hands since a process held them (0: none),
// or are held by another process than the daemon that the journal names.
func isTakenAway(pinDir string, since int) bool {
	journal, err := pins.ReadJournal(pinDir)
	if err != nil {
		return errors.Is(err, pins.ErrNone)
	}
	holder, err := pins.Holder(pinDir)
	return err == nil && (holder != since || holder != 0 && holder != journal.PID)
}

// inUnit reads what /proc/PID/cgroup says, a hierarchy a line (cgroups(7)).
func inUnit(groups string) bool {
	for line := range strings.Lines(groups) {
		if strings.HasSuffix(strings.TrimSuffix(line, "\n"), unitCGroup) {
			return true
		}
	}
	return false
}
