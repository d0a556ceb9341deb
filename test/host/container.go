// SPDX-License-Identifier: Apache-2.0

package host

import (
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"replypath/test/topology"
)

// contain gives a command what a container's runtime does: the capabilities $0 alone, and sysctls that it can only
// read.
const contain = `mount -t proc proc /proc
mount --bind /proc/sys /proc/sys
mount -o remount,bind,ro /proc/sys
exec setpriv --no-new-privs --inh-caps=-all --ambient-caps=-all --bounding-set="$0" "$@"`

// Contain has a command run as in a container that has these capabilities, named as Kubernetes does. It has process
// numbers of its own.
func Contain(c *topology.Cmd, capabilities []string) {
	set := "-all"
	for _, name := range capabilities {
		set += ",+" + strings.ToLower(name)
	}
	c.Path = "/usr/bin/unshare"
	c.Args = slices.Concat([]string{c.Path, "--mount", "--propagation", "private", "sh", "-ec", contain, set}, c.Args)
	c.SysProcAttr.Cloneflags |= unix.CLONE_NEWPID
}
