package gather

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"replypath/loader/pins"
)

// elsewhere tells why the path of the configuration in force does not lead to it from here:
// the daemon sees other files, as it does in a container. It returns "" where it is the daemon's
// file, where there is no daemon, and where nothing speaks against it.
func elsewhere(pinDir, path string) string {
	owned, err := pins.Owned(pinDir)
	if err != nil || !owned {
		return ""
	}
	holder, err := pins.Holder(pinDir)
	if err != nil {
		return ""
	}
	here, err := os.Stat(path)
	if holder == 0 {
		if !errors.Is(err, fs.ErrNotExist) {
			return ""
		}
		return "it is not here, and the daemon is in a PID namespace that cannot be looked into from here"
	}
	theirs := fmt.Sprintf("/proc/%d/root%s", holder, path)
	there, missing := os.Stat(theirs)
	if missing != nil || err == nil && os.SameFile(here, there) {
		return ""
	}
	return fmt.Sprintf("it is not the file of the daemon, pid %d, which runs in another mount namespace and has %s", holder, theirs)
}
