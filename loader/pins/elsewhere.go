package pins

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// ElsewhereError says that a directory holds no datapath that is known to be of this
// network namespace, while another one does.
type ElsewhereError struct {
	Dir string // that was named
	At  string // where the datapath is pinned
	Err error  // why the journal in Dir could not be read; nil where nothing is pinned there
}

func (e *ElsewhereError) Error() string {
	if e.Err != nil {
		return fmt.Sprintf("%[1]s: %[3]v: what was put on this host from there cannot be told from the datapath of this network "+
			"namespace in %[2]s, which has to go first: replypath detach --pin-dir %[2]s, then replypath detach --pin-dir %[1]s",
			shown(e.Dir), shown(e.At), e.Err)
	}
	return fmt.Sprintf("no datapath is pinned in %s; that of this network namespace is in %s: replypath detach --pin-dir %s",
		shown(e.Dir), shown(e.At), shown(e.At))
}

// Unwrap returns why the journal in Dir could not be read.
func (e *ElsewhereError) Unwrap() error { return e.Err }

// CheckElsewhere returns an *ElsewhereError where a datapath of the calling thread's
// network namespace is pinned in another directory than the given one: beside it,
// right below it, or beside the usual one. unreadable is why the journal of the given
// one could not be read, nil where nothing is pinned there.
func CheckElsewhere(dir string, unreadable error) error {
	current, err := CurrentNamespace()
	if err != nil {
		return err
	}
	for _, parent := range []string{existingParent(dir), dir, filepath.Dir(Visible(DefaultDir))} {
		if checkFileSystem(parent) != nil {
			continue // or it does not exist
		}
		at, err := findIn(parent, dir, current)
		if err != nil {
			return err
		}
		if at != "" {
			return &ElsewhereError{Dir: dir, At: at, Err: unreadable}
		}
	}
	return nil
}

// findIn returns the directory, parent or right below it and not the excepted one, in
// which a datapath of a network namespace is pinned; "" for none.
func findIn(parent, except string, namespace Namespace) (string, error) {
	entries, err := os.ReadDir(parent)
	if err != nil {
		return "", fmt.Errorf("look for pins of another datapath: %w", err)
	}
	paths := []string{parent}
	for _, entry := range entries {
		paths = append(paths, filepath.Join(parent, entry.Name()))
	}
	excepted, _ := os.Stat(except) // nil, which is no file's, where there is none
	for _, path := range paths {
		info, err := os.Stat(path)
		if err != nil || excepted != nil && os.SameFile(info, excepted) {
			continue
		}
		if holdsDatapathOf(path, namespace) {
			return path, nil
		}
	}
	return "", nil
}

// holdsDatapathOf tells whether a datapath of a network namespace is pinned at path,
// whatever that is. What this process may not look into, or cannot read, is somebody else's.
func holdsDatapathOf(path string, namespace Namespace) bool {
	if _, err := os.Lstat(filepath.Join(path, journalName)); err != nil {
		return false
	}
	journal, err := ReadJournal(path)
	// A journal of repairs, or of a process that has just begun, has no seeds.
	return err == nil && len(journal.Seeds) > 0 && journal.Namespace.Is(namespace)
}

// shown is a path as its reader can use it: one that Visible has made leads by a
// descriptor of this process.
func shown(path string) string {
	const descriptors = "/proc/self/fd/"
	below, is := strings.CutPrefix(path, descriptors)
	if !is {
		return path
	}
	descriptor, below, _ := strings.Cut(below, "/")
	target, err := os.Readlink(descriptors + descriptor)
	if err != nil {
		return path
	}
	return filepath.Join(target, below)
}
