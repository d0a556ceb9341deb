// SPDX-License-Identifier: Apache-2.0

package managers

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"replypath/test/await"
	"replypath/test/host"
)

// systemCall is one with arguments that do no harm where it is permitted.
type systemCall struct {
	name      string
	number    int
	arguments []int
}

// nowhere is no address of anything.
const nowhere = 1

// forbidden are calls that the unit's filter leaves out, of each group that is for more than a service.
var forbidden = []systemCall{
	{"kexec_load", unix.SYS_KEXEC_LOAD, []int{0, 0, 0, -1}},
	{"reboot", unix.SYS_REBOOT, []int{0, 0, 0, 0}},
	{"init_module", unix.SYS_INIT_MODULE, []int{nowhere, 0, nowhere}},
	{"finit_module", unix.SYS_FINIT_MODULE, []int{-1, nowhere, 0}},
	{"delete_module", unix.SYS_DELETE_MODULE, []int{nowhere, 0}},
	{"ptrace", unix.SYS_PTRACE, []int{-1, -1, 0, 0}},
	{"process_vm_readv", unix.SYS_PROCESS_VM_READV, []int{-1, 0, 0, 0, 0, 0}},
	{"process_vm_writev", unix.SYS_PROCESS_VM_WRITEV, []int{-1, 0, 0, 0, 0, 0}},
	{"perf_event_open", unix.SYS_PERF_EVENT_OPEN, []int{nowhere, -1, -1, -1, 0}},
	{"mount", unix.SYS_MOUNT, []int{nowhere, nowhere, nowhere, 0, 0}},
	{"umount2", unix.SYS_UMOUNT2, []int{nowhere, 0}},
	{"pivot_root", unix.SYS_PIVOT_ROOT, []int{nowhere, nowhere}},
	{"chroot", unix.SYS_CHROOT, []int{nowhere}},
	{"open_by_handle_at", unix.SYS_OPEN_BY_HANDLE_AT, []int{-1, nowhere, 0}},
	{"swapon", unix.SYS_SWAPON, []int{nowhere, 0}},
	{"acct", unix.SYS_ACCT, []int{nowhere}},
	{"clock_settime", unix.SYS_CLOCK_SETTIME, []int{-1, nowhere}},
	{"capset", unix.SYS_CAPSET, []int{nowhere, nowhere}},
	{"setuid", unix.SYS_SETUID, []int{0}},
	{"sched_setaffinity", unix.SYS_SCHED_SETAFFINITY, []int{-1, 0, nowhere}},
}

// permitted are some that the filter lets through.
var permitted = []systemCall{
	{"bpf", unix.SYS_BPF, []int{-1, 0, 0}},
	{"socket", unix.SYS_SOCKET, []int{-1, 0, 0}},
	{"flock", unix.SYS_FLOCK, []int{-1, 0}},
}

// callsFile is the program that makes the calls, as the machine sees it.
const callsFile = "/run/test/calls.pl"

// TestUnitForbidsSystemCalls has a program call what the service must not, in the service's place: with everything that
// the unit says, under its real systemd. An error that no call has by itself is made the filter's in between, so that
// nothing else that refuses, such as a missing capability, is taken for it.
func TestUnitForbidsSystemCalls(t *testing.T) {
	m, p := running(t)
	calls := slices.Concat(forbidden, permitted)
	await.Must(t, os.WriteFile(m.Shared("calls.pl"), []byte(program(calls)), 0o644))
	const own = unix.ENOANO
	asPackaged := callsMade(t, m, "")
	marked := callsMade(t, m, "SystemCallErrorNumber="+unix.ErrnoName(own)+"\n")
	unfiltered := callsMade(t, m, "SystemCallErrorNumber="+unix.ErrnoName(own)+"\nSystemCallFilter=\n")
	refused := 0
	for i, call := range calls {
		name, isForbidden := call.name, i < len(forbidden)
		if isForbidden && asPackaged[name] != unix.EPERM || isForbidden != (marked[name] == own) {
			t.Errorf("%s says %s, and with an error of the filter's own %s",
				name, errorName(asPackaged[name]), errorName(marked[name]))
		}
		if unfiltered[name] == own {
			t.Errorf("%s says %s without a filter", name, errorName(own))
		}
		if marked[name] == own {
			refused++
		}
		t.Logf("%s: %s, without the filter %s", name, errorName(asPackaged[name]), errorName(unfiltered[name]))
	}
	t.Logf("%d of %d calls refused by the filter", refused, len(calls))
	dropIn(m, "")
	m.Run("systemctl", "restart", service)
	wantManaged(t, p)
}

// program makes the calls one after the other and tells the error of each.
func program(calls []systemCall) string {
	var lines strings.Builder
	for _, call := range calls {
		var arguments strings.Builder
		for _, a := range call.arguments {
			arguments.WriteString(", " + strconv.Itoa(a))
		}
		fmt.Fprintf(&lines, "$! = 0; syscall(%d%s); print 'call %s ', $! + 0, \"\\n\";\n", call.number, &arguments, call.name)
	}
	return lines.String()
}

// callsMade runs the program in the service's place, and returns the error of each call.
func callsMade(t *testing.T, m *host.Machine, lines string) map[string]unix.Errno {
	t.Helper()
	dropIn(m, "Type=oneshot\nRestart=no\nExecStart=\nExecStart=/usr/bin/perl "+callsFile+"\n"+lines)
	before := len(m.Log())
	m.Run("systemctl", "restart", service)
	said := make(map[string]unix.Errno)
	for line := range strings.Lines(m.Log()[before:]) {
		var name string
		var number int
		if n, _ := fmt.Sscanf(line, "call %s %d", &name, &number); n == 2 {
			said[name] = unix.Errno(number)
		}
	}
	if len(said) != len(forbidden)+len(permitted) {
		t.Fatalf("it says\n%s", m.Log()[before:])
	}
	return said
}

func errorName(number unix.Errno) string {
	if number == 0 {
		return "no error"
	}
	return unix.ErrnoName(number)
}
