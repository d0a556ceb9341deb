package pins

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"replypath/bpf"
)

// linksDir is the directory of the links below a pin directory (datapath.LinksDir).
const linksDir = "links"

// fate is what became of a network namespace.
type fate int

const (
	unknown fate = iota
	alive
	gone
)

// whereabouts are what is known of a network namespace that is not this thread's.
type whereabouts struct {
	fate fate
	at   string // a file that leads to it, for nsenter; empty where none was seen
}

// whereabouts asks the kernel, and looks for who keeps the namespace. Where neither tells, it
// is gone if everybody could be seen, or if all links that work for it by way of the pin
// directory have lost their interfaces. One that nothing but a process' socket keeps is
// not seen: there is no way into it any more.
func (n Namespace) whereabouts(pinDir string, current Namespace) whereabouts {
	if n.Inode == current.Inode { // and not the same: the number was given again
		return whereabouts{fate: gone}
	}
	said := n.ask()
	if said == gone {
		return whereabouts{fate: gone}
	}
	s := seeker{namespace: n, complete: seesEveryProcess()}
	if found := s.seek(); found.fate != unknown || said == alive {
		return whereabouts{fate: max(found.fate, said), at: found.at}
	}
	attached, defunct := 0, 0
	if journal, err := ReadJournal(pinDir); err == nil && journal.Namespace.Is(n) {
		attached, defunct = countLinks(filepath.Join(pinDir, linksDir))
	}
	if attached == 0 && (defunct > 0 || s.complete) {
		return whereabouts{fate: gone}
	}
	return whereabouts{}
}

// ask has the kernel open the namespace by its number, which it does from 6.18 on, for a
// process with CAP_SYS_ADMIN that is in no user namespace. The number is the cookie.
func (n Namespace) ask() fate {
	own, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return unknown
	}
	defer own.Close()
	handle, _, err := unix.NameToHandleAt(int(own.Fd()), "", unix.AT_EMPTY_PATH)
	if err != nil {
		return unknown
	}
	current, err := CurrentNamespace()
	if err != nil || n.Cookie == 0 || !bytes.Equal(handle.Bytes(), current.handle()) {
		return unknown // the kernel writes its handles in another way
	}
	fd, err := unix.OpenByHandleAt(int(own.Fd()), unix.NewFileHandle(handle.Type(), n.handle()), unix.O_RDONLY|unix.O_CLOEXEC)
	if errors.Is(err, unix.ESTALE) {
		return gone
	}
	if err != nil {
		return unknown
	}
	unix.Close(fd)
	return alive
}

// handle is a struct nsfs_file_handle.
func (n Namespace) handle() []byte {
	handle := binary.NativeEndian.AppendUint64(nil, n.Cookie)
	handle = binary.NativeEndian.AppendUint32(handle, unix.CLONE_NEWNET)
	return binary.NativeEndian.AppendUint32(handle, uint32(n.Inode))
}

// isGone tells whether what is pinned in the directory works for a namespace that is gone.
func (n Namespace) isGone(pinDir string, current Namespace) bool {
	return n != (Namespace{}) && !n.Is(current) && n.whereabouts(pinDir, current).fate == gone
}

// seesEveryProcess tells whether this process is in the first PID namespace, whose
// inode number is fixed (PROC_PID_INIT_INO).
func seesEveryProcess() bool {
	const first = 0xeffffffc
	var stat unix.Stat_t
	return unix.Stat("/proc/self/ns/pid", &stat) == nil && stat.Ino == first
}

// countLinks counts the TCX links that are pinned in a directory. A link loses its
// interface when that goes, as all do with their namespace. One that cannot be read
// counts as attached.
func countLinks(dir string) (attached, defunct int) {
	entries, _ := os.ReadDir(dir) // without any, none are counted
	for _, entry := range entries {
		index, isTCX, err := tcxInterface(filepath.Join(dir, entry.Name()))
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil || isTCX && index != 0:
			attached++
		case isTCX:
			defunct++
		}
	}
	return attached, defunct
}

func tcxInterface(path string) (index uint32, isTCX bool, err error) {
	l, err := link.LoadPinnedLink(path, &ebpf.LoadPinOptions{ReadOnly: true})
	if err != nil {
		return 0, false, err
	}
	defer bpf.Close(l)
	info, err := l.Info()
	if err != nil {
		return 0, false, err
	}
	tcx := info.TCX()
	if tcx == nil {
		return 0, false, nil
	}
	return tcx.Ifindex, true, nil
}

// seeker looks for who keeps a network namespace: mounts, threads, open files.
type seeker struct {
	namespace Namespace
	complete  bool            // nothing was kept from us
	mounts    map[string]bool // the mount namespaces that were looked through
}

func (s *seeker) seek() whereabouts {
	s.mounts = make(map[string]bool)
	processes, err := filepath.Glob("/proc/[0-9]*")
	if err != nil || len(processes) == 0 {
		s.complete = false
	}
	// Our own mounts first: their names are known to who reads of them.
	if found := s.try(s.mountsOf("/proc/self", "/")); found.fate != unknown {
		return found
	}
	for _, process := range processes {
		for _, paths := range [][]string{
			s.mountsOf(process, filepath.Join(process, "root")),
			s.linksTo(filepath.Join(process, "task"), "ns/net"),
			s.linksTo(filepath.Join(process, "fd"), ""),
		} {
			if found := s.try(paths); found.fate != unknown {
				return found
			}
		}
	}
	return whereabouts{}
}

func (s *seeker) name() string { return fmt.Sprintf("net:[%d]", s.namespace.Inode) }

// missed notes what could not be looked at, unless the process has ended.
func (s *seeker) missed(err error) {
	if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ESRCH) {
		s.complete = false
	}
}

// mountsOf returns where the namespace is mounted, as `ip netns` does it.
func (s *seeker) mountsOf(process, root string) (paths []string) {
	namespace, err := os.Readlink(filepath.Join(process, "ns/mnt"))
	s.missed(err)
	if err != nil || s.mounts[namespace] {
		return nil
	}
	s.mounts[namespace] = true
	file, err := os.Open(filepath.Join(process, "mountinfo"))
	s.missed(err)
	if err != nil {
		return nil
	}
	defer file.Close()
	mounts, err := mountinfo.GetMountsFromReader(file, mountinfo.FSTypeFilter("nsfs"))
	s.missed(err)
	for _, mount := range mounts {
		if mount.Root == s.name() {
			paths = append(paths, filepath.Join(root, mount.Mountpoint))
		}
	}
	return paths
}

// linksTo returns what leads to the namespace in the directories of threads, or among
// open files.
func (s *seeker) linksTo(dir, below string) (paths []string) {
	entries, err := os.ReadDir(dir)
	s.missed(err)
	for _, entry := range entries {
		path := filepath.Join(dir, entry.Name(), below)
		target, err := os.Readlink(path)
		s.missed(err)
		if err == nil && target == s.name() {
			paths = append(paths, path)
		}
	}
	return paths
}

// try tells what the first file of the inode number says that can be opened.
func (s *seeker) try(paths []string) whereabouts {
	for _, path := range paths {
		if fate := s.namespace.fateAt(path); fate != unknown {
			return whereabouts{fate: fate, at: path}
		}
	}
	return whereabouts{}
}

// fateAt looks at a file that had the namespace's inode number. Only a cookie tells
// whether the number was given to another one since.
func (n Namespace) fateAt(path string) fate {
	file, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
		return unknown
	}
	if err != nil {
		return alive
	}
	defer file.Close()
	var stat unix.Stat_t
	if err := unix.Fstat(int(file.Fd()), &stat); err != nil || stat.Ino != n.Inode {
		return unknown // it has become another's, or is hidden by one
	}
	cookie, err := cookieOf(int(file.Fd()))
	if err == nil && n.Cookie != 0 && cookie != 0 && cookie != n.Cookie {
		return gone
	}
	return alive
}

// cookieOf returns the cookie of a network namespace, 0 where the kernel has none. It
// enters it for that moment, on a thread that is put back: a thread that stayed there
// would keep it, and Go cannot end the first one.
func cookieOf(namespace int) (cookie uint64, err error) {
	runtime.LockOSThread()
	own, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		runtime.UnlockOSThread()
		return 0, err
	}
	defer own.Close()
	if err := unix.Setns(namespace, unix.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread()
		return 0, err
	}
	cookie, err = namespaceCookie()
	if back := unix.Setns(int(own.Fd()), unix.CLONE_NEWNET); back != nil {
		return 0, errors.Join(err, back) // the thread stays locked, and goes with its goroutine
	}
	runtime.UnlockOSThread()
	return cookie, err
}
