package doctor

import (
	"errors"
	"fmt"
	"os"
	"strings"

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

// inUnit reads what /proc/PID/cgroup says, a hierarchy a line (cgroups(7)).
func inUnit(groups string) bool {
	for line := range strings.Lines(groups) {
		if strings.HasSuffix(strings.TrimSuffix(line, "\n"), unitCGroup) {
			return true
		}
	}
	return false
}
