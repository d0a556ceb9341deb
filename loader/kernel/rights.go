// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"fmt"
	"strings"

	"kernel.org/pub/linux/libs/security/libcap/cap"

	"replypath/loader/attach"
)

// Right is a capability, what grants it as well, and what it is for.
type Right struct {
	needed, orElse cap.Value
	Purpose        string
}

// Name is that of the capability, such as CAP_BPF.
func (r Right) Name() string { return strings.ToUpper(r.needed.String()) }

// Rights are what loading and attaching take. Both of the newer capabilities
// are parts of CAP_SYS_ADMIN (capabilities(7)).
var Rights = []Right{
	{cap.BPF, cap.SYS_ADMIN, "to load programs and make maps"},
	{cap.NET_ADMIN, cap.NET_ADMIN, "to attach programs to interfaces, and to set routes, neighbours and sysctls"},
	{cap.PERFMON, cap.SYS_ADMIN, "to let programs read the kernel's sockets"},
}

// MissingRights returns those that the process lacks.
func MissingRights() ([]Right, error) {
	process := cap.GetProc()
	var missing []Right
	for _, r := range Rights {
		has, err := hasEither(process, r)
		if err != nil {
			return nil, fmt.Errorf("read the capabilities of this process: %w", err)
		}
		if !has {
			missing = append(missing, r)
		}
	}
	return missing, nil
}

// CheckRights returns an error that matches attach.ErrUnsupported and names the
// capabilities that the process lacks, and what for.
func CheckRights() error {
	missing, err := MissingRights()
	if len(missing) == 0 {
		return err
	}
	var words []string
	for _, r := range missing {
		words = append(words, r.Name()+" "+r.Purpose)
	}
	return fmt.Errorf("%w: this process lacks %s: run it as root, or grant them",
		attach.ErrUnsupported, strings.Join(words, "; "))
}

func hasEither(process *cap.Set, r Right) (bool, error) {
	has, err := process.GetFlag(cap.Effective, r.needed)
	if has || err != nil {
		return has, err
	}
	return process.GetFlag(cap.Effective, r.orElse)
}
