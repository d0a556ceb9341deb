// SPDX-License-Identifier: Apache-2.0

package host

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"replypath/test/await"
	"replypath/test/topology"
)

// cgroupPrefix begins the names of control groups that tests make.
const cgroupPrefix = "replypath-test-"

// NewCgroup makes a control group, which is removed with those below it at the end of the test.
func NewCgroup(t testing.TB) *os.File {
	t.Helper()
	mounts := string(await.Must1[[]byte](t)(os.ReadFile("/proc/self/mounts")))
	for line := range strings.Lines(mounts) {
		fields := strings.Fields(line)
		if fields[2] != "cgroup2" {
			continue
		}
		path := await.Must1[string](t)(os.MkdirTemp(fields[1], cgroupPrefix))
		group := await.Must1[*os.File](t)(os.Open(path))
		t.Cleanup(func() {
			group.Close()
			await.Eventually(t, "the control groups are empty", func() error { return removeCgroup(path) })
		})
		return group
	}
	t.Fatal("no cgroup2 file system is mounted")
	return nil
}

// removeCgroup removes a control group and those below it.
func removeCgroup(path string) error {
	var groups []string
	err := filepath.WalkDir(path, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && entry.IsDir() {
			groups = append(groups, path)
		}
		return err
	})
	for _, group := range slices.Backward(groups) {
		err = errors.Join(err, unix.Rmdir(group))
	}
	return err
}

// TakeUDP has a program drop what leaves by an interface by UDP, before the programs of replypath see it.
func TakeUDP(t testing.TB, i *topology.Interface) link.Link {
	t.Helper()
	const protocolAt, next, drop = 14 + 9, -1, 2
	program := await.Must1[*ebpf.Program](t)(ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.SchedCLS, License: "GPL",
		Instructions: asm.Instructions{
			asm.Mov.Reg(asm.R6, asm.R1),
			asm.LoadAbs(protocolAt, asm.Byte),
			asm.JEq.Imm(asm.R0, unix.IPPROTO_UDP, "udp"),
			asm.Mov.Imm(asm.R0, next),
			asm.Return(),
			asm.Mov.Imm(asm.R0, drop).WithSymbol("udp"),
			asm.Return(),
		},
	}))
	t.Cleanup(func() { program.Close() })
	device := await.Must1[netlink.Link](t)(i.Link())
	var thief link.Link
	await.Must(t, i.Host.Do(func() (err error) {
		thief, err = link.AttachTCX(link.TCXOptions{
			Interface: device.Attrs().Index, Program: program, Attach: ebpf.AttachTCXEgress, Anchor: link.Head(),
		})
		return err
	}))
	t.Cleanup(func() { thief.Close() })
	return thief
}

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
