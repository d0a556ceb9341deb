// SPDX-License-Identifier: Apache-2.0

package pins

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// ElsewhereError says that a directory holds no datapath that is known to be of this
// network namespace, while another one does.
type ElsewhereError struct {
	Dir string // that was named
	At  string // where the datapath is pinned; empty where that cannot be seen
	PID int    // of the process that has it, where At is empty
	Err error  // why the journal in Dir could not be read; nil where nothing is pinned there
}

func (e *ElsewhereError) Error() string {
	if e.At == "" {
		return fmt.Sprintf("no datapath is pinned in %s; replypath runs in this network namespace, pid %d, with pins that cannot be seen from here",
			Shown(e.Dir), e.PID)
	}
	if e.Err != nil {
		return fmt.Sprintf("%[1]s: %[3]v: what was put on this host from there cannot be distinguished from the datapath of this network "+
			"namespace in %[2]s, which has to go first: replypath detach --pin-dir %[2]s, then replypath detach --pin-dir %[1]s",
			Shown(e.Dir), Shown(e.At), e.Err)
	}
	return fmt.Sprintf("no datapath is pinned in %s; that of this network namespace is in %s: replypath detach --pin-dir %s",
		Shown(e.Dir), Shown(e.At), Shown(e.At))
}

// Unwrap returns why the journal in Dir could not be read.
func (e *ElsewhereError) Unwrap() error { return e.Err }

// CheckElsewhere returns an *ElsewhereError where a datapath of the calling thread's
// network namespace is pinned in another directory than the given one. unreadable is why
// the journal of the given one could not be read, nil where nothing is pinned there.
func CheckElsewhere(dir string, unreadable error) error {
	found, err := FindElsewhere(dir)
	if err != nil || len(found) == 0 {
		return err
	}
	return &ElsewhereError{Dir: dir, At: found[0].Dir, Err: unreadable}
}

// Elsewhere is a datapath that is pinned in another directory.
type Elsewhere struct {
	Dir     string
	Journal *Journal
}

// Live tells whether its daemon is, and returns the daemon's process ID as well as it can be
// told; that of one which was killed stays in the journal.
func (e *Elsewhere) Live() (pid int, live bool) {
	if owned, err := Owned(e.Dir); err == nil && owned {
		return OwnerPID(e.Dir), true
	}
	return e.Journal.PID, false
}

// Shown is its directory as a reader can use it.
func (e *Elsewhere) Shown() string { return Shown(e.Dir) }

// FindElsewhere returns the datapaths of the calling thread's network namespace that are
// pinned in other directories than the given one, on any BPF file system in sight.
func FindElsewhere(dir string) ([]Elsewhere, error) {
	current, err := CurrentNamespace()
	if err != nil {
		return nil, err
	}
	mounts, err := mountinfo.GetMounts(mountinfo.FSTypeFilter("bpf"))
	if err != nil {
		return nil, fmt.Errorf("look for bpf file systems: %w", err)
	}
	var roots []string
	for _, mount := range mounts {
		roots = append(roots, mount.Mountpoint)
	}
	// Those that are hidden by others, as under `ip netns exec`, are in no list of mounts.
	for _, path := range []string{dir, Visible(DefaultDir)} {
		if root, is := mountOf(path); is {
			roots = append(roots, root)
		}
	}
	s := &search{namespace: current, seen: make(map[fileID]bool)}
	s.except, _ = identify(dir) // nothing's identity, where it does not exist
	for _, root := range roots {
		s.look(root, 0)
	}
	return s.found, nil
}

// mountOf returns the uppermost directory above path, or path itself, that is on a BPF file
// system, false for none.
func mountOf(path string) (root string, is bool) {
	for dir := path; ; dir = filepath.Dir(dir) {
		if checkFileSystem(dir) == nil {
			root, is = dir, true
		} else if is || dir == filepath.Dir(dir) {
			return root, is
		}
	}
}

// Bounds of a search, for file systems that others fill without end.
const (
	deepest         = 8
	mostDirectories = 20000
)

// fileID tells one file from another.
type fileID struct{ device, inode uint64 }

func identify(path string) (fileID, error) {
	var stat unix.Stat_t
	if err := unix.Stat(path, &stat); err != nil {
		return fileID{}, err
	}
	return fileID{uint64(stat.Dev), stat.Ino}, nil
}

// search looks for the pins of a network namespace.
type search struct {
	namespace Namespace
	except    fileID
	seen      map[fileID]bool // directories
	found     []Elsewhere
}

// look looks at a directory and below it. What this process may not look into is somebody
// else's.
func (s *search) look(path string, depth int) {
	id, err := identify(path)
	if err != nil || s.seen[id] || depth > deepest || len(s.seen) > mostDirectories {
		return
	}
	s.seen[id] = true
	entries, err := os.ReadDir(path)
	if err != nil {
		return
	}
	for _, entry := range entries {
		switch {
		case entry.IsDir():
			s.look(filepath.Join(path, entry.Name()), depth+1)
		case entry.Name() == journalName && id != s.except:
			s.note(path)
		}
	}
}

// note notes a directory that holds a datapath of the namespace. The journal of a process that
// has just begun has no seeds.
func (s *search) note(path string) {
	journal, err := readAnyJournal(path)
	if err == nil && len(journal.Seeds) > 0 && journal.Namespace.Is(s.namespace) {
		s.found = append(s.found, Elsewhere{path, journal})
	}
}
