// SPDX-License-Identifier: Apache-2.0

package pins

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"hash/crc32"
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

// Directories that others fill do not keep the search for other datapaths busy.
func TestFindElsewhereIsBounded(t *testing.T) {
	root := mountBPF(t)
	path := root
	for range 3 * deepest {
		path = mkdir(t, path, "deep")
	}
	must(t, os.Symlink(root, filepath.Join(root, "again")))
	j := createJournal(t, own(t, filepath.Join(root, "deep", "pins")))
	defer j.Close()
	namespace, err := CurrentNamespace()
	must(t, err)
	must(t, j.Write(&Journal{Namespace: namespace, Seeds: []uint64{1}, PID: 4711}))
	found, err := FindElsewhere(filepath.Join(root, "mine"))
	if err != nil || len(found) != 1 || found[0].Journal.PID != 4711 {
		t.Fatalf("found %v, %v", found, err)
	}
	if pid, live := found[0].Live(); pid != os.Getpid() || !live {
		t.Errorf("pid %d, live %t", pid, live)
	}
	if found, err := FindElsewhere(filepath.Join(root, "deep", "pins")); err != nil || len(found) > 0 {
		t.Errorf("its own pins are another's: %v, %v", found, err)
	}
	var elsewhere *ElsewhereError
	if err := CheckElsewhere(filepath.Join(root, "mine"), nil); !errors.As(err, &elsewhere) {
		t.Errorf("error %v", err)
	}
}

// FuzzJournal reads whatever may be pinned as a journal, also that of another version.
func FuzzJournal(f *testing.F) {
	encode := func(text string) []byte {
		value := binary.NativeEndian.AppendUint32(nil, uint32(len(text)))
		value = binary.NativeEndian.AppendUint32(value, crc32.ChecksumIEEE([]byte(text)))
		return append(value, text...)
	}
	whole, err := json.Marshal(&Journal{Version: "1.0", Seeds: []uint64{1, 2}, Trial: &TrialRecord{Before: &Journal{}}})
	must(f, err)
	for _, seed := range [][]byte{
		nil, {0}, make([]byte, journalHeader), encode(""), encode(string(whole)), encode("{}"), encode("null"), encode("[]"),
		encode(`{"pid":"x"}`), encode(`{"pid":1e99}`), encode(`{"seeds":null,"sysctls":[{}]}`), encode(`{"trial":{"before":{"trial":{}}}}`),
		encode(`{"interfaces":[{"id":70000}]}`), encode(`{"fallback":{"bound":[{"gateway":"x"}]}}`), encode("\xff\xfe"),
		encode(strings.Repeat("[", 20000)), encode(string(whole))[:20], {255, 255, 255, 255, 0, 0, 0, 0}, {1, 0, 0, 0, 0, 0, 0, 0},
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, value []byte) {
		for _, document := range []any{new(Journal), new(Repairs)} {
			if err := decodeText(value, document); err != nil && strings.Contains(err.Error(), "\n") {
				t.Errorf("an error of several lines: %v", err)
			}
		}
	})
}

// TestNamespaceLock has one lock a network namespace, whoever asks.
func TestNamespaceLock(t *testing.T) {
	lock, err := LockNamespace()
	must(t, err)
	var busy *BusyError
	if _, err := LockNamespace(); !errors.As(err, &busy) || busy.PID != os.Getpid() || busy.Stranger {
		t.Errorf("locked twice: %v", err)
	}
	must(t, lock.Close())
	must(t, lock.Close())
	again, err := LockNamespace()
	must(t, err)
	must(t, again.Close())
}

func TestIsPrivileged(t *testing.T) {
	if !isPrivileged(os.Getpid()) || isPrivileged(1<<30) {
		t.Error("who may hold the lock is not told from who has gone")
	}
}
