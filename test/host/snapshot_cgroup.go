// SPDX-License-Identifier: Apache-2.0

package host

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"replypath/bpf"
)

// cgroupHooks are where programs of a control group act on sockets and packets.
var cgroupHooks = []ebpf.AttachType{
	ebpf.AttachCGroupInetIngress, ebpf.AttachCGroupInetEgress, ebpf.AttachCGroupInetSockCreate, ebpf.AttachCGroupSockOps,
	ebpf.AttachCGroupInet4Bind, ebpf.AttachCGroupInet6Bind, ebpf.AttachCGroupInet4Connect, ebpf.AttachCGroupInet6Connect,
	ebpf.AttachCGroupInet4PostBind, ebpf.AttachCGroupInet6PostBind,
	ebpf.AttachCGroupUDP4Sendmsg, ebpf.AttachCGroupUDP6Sendmsg, ebpf.AttachCGroupUDP4Recvmsg, ebpf.AttachCGroupUDP6Recvmsg,
	ebpf.AttachCGroupSysctl, ebpf.AttachCGroupGetsockopt, ebpf.AttachCGroupSetsockopt,
}

// addCgroups lists the programs of all control groups, which Debian 12's bpftool shows by path only, but for those that
// act on another network namespace than the calling thread's: hosts of other tests share the machine's control groups,
// and come and go meanwhile. So do the groups that tests make.
func (s Snapshot) addCgroups() error {
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(mounts)) {
		if fields := strings.Fields(line); fields[2] == "cgroup2" {
			return s.addCgroupsBelow(fields[1])
		}
	}
	return nil
}

func (s Snapshot) addCgroupsBelow(root string) error {
	return filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // it has just gone
		}
		if err != nil || !entry.IsDir() {
			return err
		}
		return s.addCgroup(path)
	})
}

func (s Snapshot) addCgroup(path string) error {
	group, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer group.Close()
	for _, hook := range cgroupHooks {
		result, err := link.QueryPrograms(link.QueryOptions{Target: int(group.Fd()), Attach: hook})
		if errors.Is(err, ebpf.ErrNotSupported) || errors.Is(err, unix.EINVAL) {
			continue // the kernel does not have it
		}
		if errors.Is(err, unix.ENOENT) {
			return nil // it has just gone (css_tryget_online_from_dir, kernel/cgroup/cgroup.c)
		}
		if err != nil {
			return fmt.Errorf("list the programs of %s: %w", path, err)
		}
		for _, p := range result.Programs {
			if err := s.addCgroupProgram(path, hook, p.ID); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s Snapshot) addCgroupProgram(path string, hook ebpf.AttachType, id ebpf.ProgramID) error {
	program, err := ebpf.NewProgramFromID(id)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer program.Close()
	info, err := program.Info()
	if err != nil {
		return err
	}
	ours := strings.HasPrefix(info.Name, "replypath_")
	if ours {
		here, err := actsHere(info)
		if !here || err != nil {
			return err
		}
	}
	if ours || !strings.HasPrefix(filepath.Base(path), cgroupPrefix) {
		s["cgroup "+path+" "+hook.String()] += fmt.Sprintln(info.Name, id)
	}
	return nil
}

// actsHere tells whether a program of ours is for the network namespace of the calling thread: yes where that has no
// cookie yet (before Linux 5.14).
func actsHere(info *ebpf.ProgramInfo) (bool, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return false, err
	}
	defer unix.Close(fd)
	cookie, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	if errors.Is(err, unix.ENOPROTOOPT) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	return isFor(info, cookie)
}

// isFor tells whether a program is for the network namespace with a cookie, which is one of its constants. The program
// may be of another build, as of a test that runs beside this one.
func isFor(info *ebpf.ProgramInfo, cookie uint64) (bool, error) {
	ids, _ := info.MapIDs()
	for _, id := range ids {
		constants, err := readConstants(id)
		if err != nil {
			return false, fmt.Errorf("%s: read its constants: %w", info.Name, err)
		}
		if constants != nil {
			return tellsOf(constants, cookie)
		}
	}
	return false, fmt.Errorf("%s does not tell for which namespace it is", info.Name)
}

// tellsOf tells whether constants name a namespace. Where they stand is known of this build's, which are known by their
// size: the product keeps no type information with them. Those of another build name it if any of them is the cookie.
func tellsOf(constants []byte, cookie uint64) (bool, error) {
	section, err := ownConstants()
	if err != nil {
		return false, err
	}
	at := func(offset int) bool { return binary.NativeEndian.Uint64(constants[offset:]) == cookie }
	if len(constants) == section.size {
		return at(section.namespace), nil
	}
	for offset := 0; offset+8 <= len(constants); offset += 8 {
		if at(offset) {
			return true, nil
		}
	}
	return false, nil
}

// constantsSection is how the constants of a build are laid out, in bytes.
type constantsSection struct{ size, namespace int }

// ownConstants are this build's.
var ownConstants = sync.OnceValues(func() (s constantsSection, err error) {
	spec, err := bpf.LoadDatapath()
	if err != nil {
		return s, err
	}
	constants := spec.Maps[".rodata"]
	for _, v := range constants.Value.(*btf.Datasec).Vars {
		if v.Type.TypeName() == bpf.DatapathVarOwnNamespace {
			return constantsSection{int(constants.ValueSize), int(v.Offset)}, nil
		}
	}
	return s, fmt.Errorf("no constant %s", bpf.DatapathVarOwnNamespace)
})

// readConstants returns the value of the map that holds a program's constants, nil for another map.
func readConstants(id ebpf.MapID) (constants []byte, err error) {
	m, err := ebpf.NewMapFromID(id)
	if err != nil {
		return nil, err
	}
	defer m.Close()
	info, err := m.Info()
	if err != nil || !info.Frozen() || info.Type != ebpf.Array {
		return nil, err
	}
	constants = make([]byte, info.ValueSize)
	return constants, m.Lookup(uint32(0), &constants)
}
