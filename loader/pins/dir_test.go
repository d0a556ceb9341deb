// SPDX-License-Identifier: Apache-2.0

package pins

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

func TestOneOwner(t *testing.T) {
	path := filepath.Join(mountBPF(t), "a", "b")
	if _, err := OwnExisting(path); !errors.Is(err, ErrNone) {
		t.Errorf("own what is not there: %v", err)
	}
	if _, err := Owned(path); !errors.Is(err, ErrNone) {
		t.Errorf("whether somebody owns what is not there: %v", err)
	}
	d := own(t, path)
	if !d.Created() || d.Path("maps", "x") != filepath.Join(path, "maps", "x") {
		t.Errorf("created %v, path %s", d.Created(), d.Path("maps", "x"))
	}
	if owned, err := Owned(path); err != nil || !owned {
		t.Errorf("owned %v, %v", owned, err)
	}
	var refusal *OwnedError
	if _, err := Own(path); !errors.As(err, &refusal) || refusal.PID != os.Getpid() || !errors.Is(err, ErrOwned) {
		t.Errorf("own it twice: %v", err)
	}
	if _, err := OwnExisting(path); !errors.Is(err, ErrOwned) {
		t.Errorf("own it twice: %v", err)
	}
	must(t, d.Close())
	must(t, d.Close())
	if owned, err := Owned(path); err != nil || owned {
		t.Errorf("after the end: owned %v, %v", owned, err)
	}
	if again := own(t, path); again.Created() {
		t.Error("created twice")
	}
}

func TestForeignContents(t *testing.T) {
	path := mkdir(t, mountBPF(t), "a")
	foreign := mkdir(t, path, "maps")
	if _, err := Own(path); !errors.Is(err, ErrForeignContents) {
		t.Errorf("own: %v", err)
	}
	if _, err := OwnExisting(path); !errors.Is(err, ErrNone) {
		t.Errorf("own what exists: %v", err)
	}
	if owned, err := Owned(path); err != nil || owned {
		t.Errorf("after refusals: owned %v, %v", owned, err)
	}
	old := mkdir(t, path, doctorDir) // that of an earlier version makes it ours
	must(t, own(t, path).Remove())
	if !exist(foreign) || exist(old) {
		t.Error("something of others was removed, or what is ours was not")
	}
}

// mountBPF returns a directory on a bpf file system that only the test's own thread sees, and that goes with it.
func mountBPF(t *testing.T) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("the tests of pins need root")
	}
	runtime.LockOSThread() // for good: the thread ends with the test
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		t.Fatalf("make a mount namespace: %v", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		t.Fatalf("make mounts private: %v", err)
	}
	dir := t.TempDir()
	if err := unix.Mount("bpf", dir, "bpf", 0, ""); err != nil {
		t.Fatalf("mount a bpf file system: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// own owns a directory until the end of the test.
func own(t *testing.T, path string) *Dir {
	t.Helper()
	d, err := Own(path)
	must(t, err)
	t.Cleanup(func() { d.Close() })
	return d
}

func mkdir(t *testing.T, elem ...string) string {
	t.Helper()
	path := filepath.Join(elem...)
	must(t, os.MkdirAll(path, 0o700))
	return path
}

func exist(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
