// SPDX-License-Identifier: Apache-2.0

package pins

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
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
