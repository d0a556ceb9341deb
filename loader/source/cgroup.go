// SPDX-License-Identifier: Apache-2.0

package source

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"replypath/bpf"
	"replypath/loader/pins"
)

// ErrNoCgroup says that no cgroup2 file system is mounted.
var ErrNoCgroup = errors.New("no cgroup2 file system is mounted")

// self is the directory of this process.
const self = "/proc/self"

// Cgroup returns a path to the topmost cgroup that this process can reach, for
// immediate use. Hosts that use both versions of cgroups have the second at
// another place than others. `ip netns exec` mounts a new /sys, which hides the
// caller's with all that is mounted in it: the caller's cgroup is used then. The
// error matches ErrNoCgroup where there is none.
func Cgroup() (string, error) {
	for _, process := range append([]string{self}, pins.Ancestors()...) {
		if process != self && hasOurSys(process) {
			continue
		}
		path, err := cgroupOf(process)
		if err == nil || !errors.Is(err, ErrNoCgroup) {
			return path, err
		}
	}
	return "", fmt.Errorf("%w: mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified (or reboot with systemd.unified_cgroup_hierarchy=1)", ErrNoCgroup)
}

// hasOurSys tells whether a process sees the same /sys as this one, or cannot be
// asked. Every network namespace has a sysfs of its own.
func hasOurSys(process string) bool {
	var ours, theirs unix.Stat_t
	err := errors.Join(unix.Stat("/sys", &ours), unix.Stat(filepath.Join(process, "root/sys"), &theirs))
	return err != nil || ours.Dev == theirs.Dev
}

// cgroupOf looks through the mounts of a process, which is given by its
// directory in /proc. A mount may be hidden by another above it.
func cgroupOf(process string) (string, error) {
	mounts, err := readMounts(filepath.Join(process, "mountinfo"))
	if errors.Is(err, os.ErrNotExist) {
		return "", ErrNoCgroup // the process has ended
	}
	if err != nil {
		return "", fmt.Errorf("look for cgroup2: %w", err)
	}
	for _, mount := range mounts {
		path := mount.Mountpoint
		if process != self {
			path = filepath.Join(process, "root", path)
		}
		if isCgroup2(path) {
			return path, nil
		}
	}
	return "", ErrNoCgroup
}

// readMounts lists the mounts of cgroup2, those of the whole hierarchy first.
func readMounts(path string) ([]*mountinfo.Info, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	found, err := mountinfo.GetMountsFromReader(file, mountinfo.FSTypeFilter("cgroup2"))
	var whole, parts []*mountinfo.Info
	for _, mount := range found {
		if mount.Root == "/" {
			whole = append(whole, mount)
		} else {
			parts = append(parts, mount)
		}
	}
	return append(whole, parts...), err
}

func isCgroup2(path string) bool {
	var stat unix.Statfs_t
	return unix.Statfs(path, &stat) == nil && stat.Type == unix.CGROUP2_SUPER_MAGIC
}

// AskNamespace returns the cookie of the calling thread's network namespace
// where user space cannot read it (SO_NETNS_COOKIE came with 5.14): a program
// tells that of one socket, while that sends a datagram to nobody. The program
// is attached to the cgroup for that moment, and the process has to be below it.
func AskNamespace(cgroup string) (cookie uint64, err error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("open a socket to identify the network namespace: %w", err)
	}
	defer unix.Close(fd)
	socket, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_COOKIE)
	if err != nil {
		return 0, fmt.Errorf("read the cookie of a socket: %w", err)
	}
	answer, err := ebpf.NewMap(&ebpf.MapSpec{
		Name: "rp_namespace", Type: ebpf.Array, KeySize: 4, ValueSize: 8, MaxEntries: 1,
	})
	if err != nil {
		return 0, fmt.Errorf("create a map for the cookie of the network namespace: %w", err)
	}
	defer answer.Close()
	if err := send(cgroup, fd, answer, socket); err != nil {
		return 0, err
	}
	if err := answer.Lookup(uint32(0), &cookie); err != nil {
		return 0, fmt.Errorf("read the cookie of the network namespace: %w", err)
	}
	if cookie == 0 {
		return 0, fmt.Errorf("cgroup %s does not hold this process: the network namespace is not known", cgroup)
	}
	return cookie, nil
}

// send has a socket send while the program is attached.
func send(cgroup string, fd int, answer *ebpf.Map, socket uint64) (err error) {
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "rp_namespace", Type: ebpf.CGroupSockAddr, AttachType: ebpf.AttachCGroupUDP4Sendmsg,
		Instructions: namespaceTeller(answer, socket), License: "Dual BSD/GPL",
	})
	if err != nil {
		return fmt.Errorf("load the program that says the network namespace: %w", err)
	}
	defer bpf.Close(program)
	l, err := link.AttachCgroup(link.CgroupOptions{
		Path: cgroup, Attach: ebpf.AttachCGroupUDP4Sendmsg, Program: program,
	})
	if err != nil {
		return fmt.Errorf("attach to cgroup %s: %w", cgroup, err)
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	// The program runs before the kernel looks for a route: whether there is one
	// does not matter.
	_ = unix.Sendto(fd, nil, 0, &unix.SockaddrInet4{Addr: [4]byte(net.IPv4(127, 0, 0, 1).To4()), Port: 9})
	return nil
}

// namespaceTeller writes the cookie of the namespace into the map when the
// socket with this cookie sends. It is needed once in the life of a process, with
// constants that are known then only.
func namespaceTeller(answer *ebpf.Map, socket uint64) asm.Instructions {
	const (
		key   = -4
		value = -16
	)
	return asm.Instructions{
		asm.Mov.Reg(asm.R6, asm.R1),
		asm.FnGetSocketCookie.Call(),
		asm.LoadImm(asm.R1, int64(socket), asm.DWord),
		asm.JNE.Reg(asm.R0, asm.R1, "allow"),
		asm.Mov.Reg(asm.R1, asm.R6),
		asm.FnGetNetnsCookie.Call(),
		asm.StoreMem(asm.RFP, value, asm.R0, asm.DWord),
		asm.StoreImm(asm.RFP, key, 0, asm.Word),
		asm.LoadMapPtr(asm.R1, answer.FD()),
		asm.Mov.Reg(asm.R2, asm.RFP),
		asm.Add.Imm(asm.R2, key),
		asm.Mov.Reg(asm.R3, asm.RFP),
		asm.Add.Imm(asm.R3, value),
		asm.Mov.Imm(asm.R4, 0),
		asm.FnMapUpdateElem.Call(),
		asm.Mov.Imm(asm.R0, 1).WithSymbol("allow"),
		asm.Return(),
	}
}
