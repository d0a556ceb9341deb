// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"encoding/binary"
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"replypath/test/harness"
	"replypath/test/topology"
)

// layouts are constants of other builds: what stands before the one that tells the network
// namespace, in bytes, and what stands behind it.
var layouts = map[string][2]uint32{"no others": {0, 0}, "fewer": {64, 0}, "more": {512, 512}}

// TestSnapshotOfAnotherBuild shows the same of programs of another build, whose constants stand
// elsewhere.
func TestSnapshotOfAnotherBuild(t *testing.T) {
	n := newServer(t)
	for name, layout := range layouts {
		t.Run(name, func(t *testing.T) {
			other, empty := harness.TakeSnapshot(t, n.Client), snapshot(t, n)
			group := newGroup(t)
			detach := attachForeign(t, group, foreignSend(t, layout, namespaceOf(t, n.Server.Host)))
			seen := 0
			for what := range snapshot(t, n) {
				if strings.Contains(what, group) {
					seen++
				}
			}
			if seen != 1 {
				t.Errorf("%d programs are seen", seen)
			}
			if diff := other.Diff(harness.TakeSnapshot(t, n.Client)); diff != "" {
				t.Errorf("another host has changed (-before +after):\n%s", diff)
			}
			detach()
			if diff := empty.Diff(snapshot(t, n)); diff != "" {
				t.Errorf("host without it (-before +after):\n%s", diff)
			}
			t.Logf("%s: %d is seen on its own host, 0 on another", name, seen)
		})
	}
}

// newGroup makes a control group without processes, until the test ends.
func newGroup(t *testing.T) string {
	t.Helper()
	for line := range strings.Lines(string(harness.Must1[[]byte](t)(os.ReadFile("/proc/self/mounts")))) {
		if fields := strings.Fields(line); fields[2] == "cgroup2" {
			path := harness.Must1[string](t)(os.MkdirTemp(fields[1], "replypath-test-"))
			t.Cleanup(func() {
				if err := unix.Rmdir(path); err != nil {
					t.Errorf("remove control group %s: %v", path, err)
				}
			})
			return path
		}
	}
	t.Fatal("no cgroup2 file system is mounted")
	return ""
}

// namespaceOf returns the cookie of a host's network namespace.
func namespaceOf(t *testing.T, host *topology.Host) (cookie uint64) {
	t.Helper()
	harness.Must(t, host.Do(func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		cookie, err = unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
		if errors.Is(err, unix.ENOPROTOOPT) {
			return nil
		}
		return err
	}))
	if cookie == 0 {
		t.Skip("the kernel does not tell network namespaces apart (Linux 5.14)")
	}
	return cookie
}

// foreignSend loads a program of our name that lets everything pass, with constants of a layout.
func foreignSend(t *testing.T, layout [2]uint32, namespace uint64) *ebpf.Program {
	t.Helper()
	constants := foreignConstants(t, layout, namespace)
	program := harness.Must1[*ebpf.Program](t)(ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "replypath_sendmsg4", Type: ebpf.CGroupSockAddr, AttachType: ebpf.AttachCGroupUDP4Sendmsg,
		Instructions: asm.Instructions{
			asm.LoadMapValue(asm.R1, constants.FD(), layout[0]),
			asm.Mov.Imm(asm.R0, 1),
			asm.Return(),
		},
		License: "Dual BSD/GPL",
	}))
	t.Cleanup(func() { program.Close() })
	return program
}

// foreignConstants are those of a program. What is beside the namespace reads as no namespace.
func foreignConstants(t *testing.T, layout [2]uint32, namespace uint64) *ebpf.Map {
	t.Helper()
	size := layout[0] + 8 + layout[1]
	value := make([]byte, size)
	binary.NativeEndian.PutUint64(value[layout[0]:], namespace)
	m := harness.Must1[*ebpf.Map](t)(ebpf.NewMap(&ebpf.MapSpec{
		Name: ".rodata", Type: ebpf.Array, KeySize: 4, ValueSize: size, MaxEntries: 1, Flags: unix.BPF_F_RDONLY_PROG,
		Contents: []ebpf.MapKV{{Key: uint32(0), Value: value}},
	}))
	t.Cleanup(func() { m.Close() })
	return m
}

// attachForeign attaches a program to a control group.
func attachForeign(t *testing.T, group string, program *ebpf.Program) (detach func()) {
	t.Helper()
	l := harness.Must1[link.Link](t)(link.AttachCgroup(link.CgroupOptions{
		Path: group, Attach: ebpf.AttachCGroupUDP4Sendmsg, Program: program,
	}))
	return func() { harness.Must(t, l.Close()) }
}
