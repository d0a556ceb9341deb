// SPDX-License-Identifier: Apache-2.0

package managers

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"replypath/test/await"
)

// nowhere is no address of anything.
const nowhere = 1

// forbidden are calls that the unit's filter leaves out, of each group that is for more than a service: their numbers, and
// arguments that do no harm where one is permitted.
var forbidden = map[string][]int{
	"kexec_load":        {unix.SYS_KEXEC_LOAD, 0, 0, 0, -1},
	"reboot":            {unix.SYS_REBOOT, 0, 0, 0, 0},
	"init_module":       {unix.SYS_INIT_MODULE, nowhere, 0, nowhere},
	"finit_module":      {unix.SYS_FINIT_MODULE, -1, nowhere, 0},
	"delete_module":     {unix.SYS_DELETE_MODULE, nowhere, 0},
	"ptrace":            {unix.SYS_PTRACE, -1, -1, 0, 0},
	"process_vm_readv":  {unix.SYS_PROCESS_VM_READV, -1, 0, 0, 0, 0, 0},
	"process_vm_writev": {unix.SYS_PROCESS_VM_WRITEV, -1, 0, 0, 0, 0, 0},
	"perf_event_open":   {unix.SYS_PERF_EVENT_OPEN, nowhere, -1, -1, -1, 0},
	"mount":             {unix.SYS_MOUNT, nowhere, nowhere, nowhere, 0, 0},
	"umount2":           {unix.SYS_UMOUNT2, nowhere, 0},
	"pivot_root":        {unix.SYS_PIVOT_ROOT, nowhere, nowhere},
	"chroot":            {unix.SYS_CHROOT, nowhere},
	"open_by_handle_at": {unix.SYS_OPEN_BY_HANDLE_AT, -1, nowhere, 0},
	"swapon":            {unix.SYS_SWAPON, nowhere, 0},
	"acct":              {unix.SYS_ACCT, nowhere},
	"clock_settime":     {unix.SYS_CLOCK_SETTIME, -1, nowhere},
	"capset":            {unix.SYS_CAPSET, nowhere, nowhere},
	"setuid":            {unix.SYS_SETUID, 0},
	"sched_setaffinity": {unix.SYS_SCHED_SETAFFINITY, -1, 0, nowhere},
}

// permitted are some that the filter lets through.
var permitted = map[string][]int{
	"bpf":    {unix.SYS_BPF, -1, 0, 0},
	"socket": {unix.SYS_SOCKET, -1, 0, 0},
	"flock":  {unix.SYS_FLOCK, -1, 0},
}

// TestUnitForbidsSystemCalls has a program call what the service must not, in the service's place: with everything that
// the unit says, under its real systemd. An error that no call has by itself is made the filter's, so that nothing else that
// refuses, such as a missing capability, is taken for it.
func TestUnitForbidsSystemCalls(t *testing.T) {
	m, p := running(t)
	var program strings.Builder
	for _, calls := range []map[string][]int{forbidden, permitted} {
		for name, call := range calls {
			arguments := strings.ReplaceAll(strings.Trim(fmt.Sprint(call), "[]"), " ", ", ")
			fmt.Fprintf(&program, "$! = 0; syscall(%s); print 'call %s ', $! + 0, \"\\n\";\n", arguments, name)
		}
	}
	await.Must(t, os.WriteFile(m.Shared("calls.pl"), []byte(program.String()), 0o644))
	const own = unix.ENOANO
	dropIn(m, "Type=oneshot\nRestart=no\nExecStart=\nExecStart=/usr/bin/perl /run/test/calls.pl\nSystemCallErrorNumber="+unix.ErrnoName(own)+"\n")
	before := len(m.Log())
	m.Run("systemctl", "restart", service)
	asked, refused := 0, 0
	for line := range strings.Lines(m.Log()[before:]) {
		var name string
		var number unix.Errno
		if n, _ := fmt.Sscanf(line, "call %s %d", &name, &number); n != 2 {
			continue
		}
		if asked++; number == own {
			refused++
		}
		if isForbidden := forbidden[name] != nil; isForbidden != (number == own) {
			t.Errorf("%s, forbidden %t: %v", name, isForbidden, number)
		}
	}
	t.Logf("%d of %d calls refused by the filter", refused, asked)
	if asked != len(forbidden)+len(permitted) {
		t.Errorf("it says\n%s", m.Log()[before:])
	}
	dropIn(m, "")
	m.Run("systemctl", "restart", service)
	wantManaged(t, p)
}
