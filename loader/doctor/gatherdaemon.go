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
	var deadline time.Time
	for {
		holder, _ := pins.Holder(options.PinDir) // 0 where there are no pins
		host, err := gather(options)
		if err != nil || len(missingPrograms(host)) == 0 || !isTakenAway(options.PinDir, holder) {
			return host, err
		}
		switch now := time.Now(); {
		case deadline.IsZero():
			deadline = now.Add(detachTime)
		case now.After(deadline):
			return host, nil
		}
		time.Sleep(detachPoll)
	}
}

// isTakenAway tells that the pins are gone, have changed hands since a process held them (0: none),
// or are held by another process than the daemon that the journal names. What is removed last is
// looked at last.
func isTakenAway(pinDir string, since int) bool {
	owned, err := pins.Owned(pinDir)
	if err != nil {
		return errors.Is(err, pins.ErrNone)
	}
	holder, unknown := pins.Holder(pinDir) // there may be none any more
	journal, err := pins.ReadJournal(pinDir)
	if err != nil {
		return errors.Is(err, pins.ErrNone)
	}
	return holder != since || owned && (unknown != nil || holder != journal.PID)
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
