// SPDX-License-Identifier: Apache-2.0

package pins

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
)

// pinMap pins a map of somebody else.
func pinMap(t *testing.T, path string, spec *ebpf.MapSpec) {
	t.Helper()
	m, err := ebpf.NewMap(spec)
	must(t, err)
	defer m.Close()
	must(t, m.Pin(path))
}

// What is pinned by the name of the journal and is none is an error, to those that write and those that read.
func TestNoJournal(t *testing.T) {
	for name, put := range map[string]func(t *testing.T, path string){
		"a small value": func(t *testing.T, path string) {
			pinMap(t, path, &ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 2, MaxEntries: 1})
		},
		"many values": func(t *testing.T, path string) {
			pinMap(t, path, &ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: journalSize, MaxEntries: 2})
		},
		"a hash": func(t *testing.T, path string) {
			pinMap(t, path, &ebpf.MapSpec{Type: ebpf.Hash, KeySize: 8, ValueSize: 8, MaxEntries: 1})
		},
		"a ring buffer": func(t *testing.T, path string) { pinMap(t, path, &ebpf.MapSpec{Type: ebpf.RingBuf, MaxEntries: 4096}) },
		"a directory":   func(t *testing.T, path string) { must(t, os.Mkdir(path, 0o700)) },
		"a loop":        func(t *testing.T, path string) { must(t, os.Symlink(path, path)) },
		"a way out":     func(t *testing.T, path string) { must(t, os.Symlink("/etc/passwd", path)) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := mkdir(t, mountBPF(t), "a")
			put(t, filepath.Join(dir, journalName))
			d := own(t, dir)
			if j, _, err := CreateJournal(d); err == nil {
				j.Close()
				t.Error("it was opened")
			} else if !strings.Contains(err.Error(), "journal") {
				t.Errorf("it does not name the journal: %v", err)
			}
			if _, err := ReadJournal(dir); err == nil {
				t.Error("it was read")
			}
			// Others' directories are looked at as well.
			if found, err := FindElsewhere(filepath.Join(filepath.Dir(dir), "b")); err != nil || len(found) > 0 {
				t.Errorf("found elsewhere: %v, %v", found, err)
			}
		})
	}
}

// A directory that others may change is refused, and so is what is none.
func TestOthersDirectory(t *testing.T) {
	for name, test := range map[string]struct {
		spoil func(t *testing.T, path string)
		says  string
	}{
		"another user's":       {func(t *testing.T, path string) { must(t, os.Chown(path, 1000, 1000)) }, "belongs to user 1000"},
		"writable by others":   {func(t *testing.T, path string) { must(t, os.Chmod(path, 0o777)) }, "chmod 700"},
		"writable by a group":  {func(t *testing.T, path string) { must(t, os.Chmod(path, 0o720)) }, "chmod 700"},
		"a map":                {func(t *testing.T, path string) { must(t, os.Remove(path)); pinMap(t, path, small()) }, "not a directory"},
		"below a map":          {func(t *testing.T, path string) { must(t, os.Remove(path)); pinMap(t, path, small()) }, "not a directory"},
		"leads to another's":   {func(t *testing.T, path string) { leadTo(t, path, 1000) }, "belongs to user 1000"},
		"leads out of it":      {func(t *testing.T, path string) { must(t, os.Remove(path)); must(t, os.Symlink("/tmp", path)) }, "not on a bpf file system"},
		"leads nowhere at all": {func(t *testing.T, path string) { must(t, os.Remove(path)); must(t, os.Symlink(path, path)) }, ""},
	} {
		t.Run(name, func(t *testing.T) {
			path := mkdir(t, mountBPF(t), "pins")
			test.spoil(t, path)
			if name == "below a map" {
				path = filepath.Join(path, "pins")
			}
			if CheckPlace(path) == nil {
				t.Error("doctor would not say it")
			}
			d, err := Own(path)
			if err == nil {
				d.Close()
				t.Fatal("it is owned")
			}
			if text := err.Error(); !strings.Contains(text, test.says) || strings.Contains(text, "\n") {
				t.Errorf("%q does not say %q on one line", text, test.says)
			}
		})
	}
}

func small() *ebpf.MapSpec {
	return &ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 4, MaxEntries: 1}
}

// leadTo makes path lead to a directory of somebody.
func leadTo(t *testing.T, path string, uid int) {
	t.Helper()
	other := mkdir(t, filepath.Dir(path), "other")
	must(t, os.Chown(other, uid, uid))
	must(t, os.Remove(path))
	must(t, os.Symlink(other, path))
}
