// SPDX-License-Identifier: Apache-2.0

package pins

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"replypath/test/await"
)

func repairs(t *testing.T) *Repairs {
	t.Helper()
	here, err := CurrentNamespace()
	must(t, err)
	return &Repairs{Namespace: here, Sysctls: []RepairRecord{
		{SysctlRecord: SysctlRecord{Interface: 3, Key: "net.ipv4.conf.eth1.arp_ignore", Before: "0", After: "1"}, Name: "eth1", MAC: "02:00:00:00:00:01"},
	}}
}

func entries(t *testing.T, path string) string {
	t.Helper()
	list, err := os.ReadDir(path)
	if errors.Is(err, os.ErrNotExist) {
		return "gone"
	}
	must(t, err)
	var names []string
	for _, e := range list {
		names = append(names, e.Name())
	}
	return strings.Join(names, " ")
}

func TestRepairs(t *testing.T) {
	path := filepath.Join(mountBPF(t), "a")
	if got, err := ReadRepairs(path); got != nil || err != nil {
		t.Errorf("read what is not there: %v, %v", got, err)
	}
	if j, err := OwnExistingRepairs(path); j != nil || err != nil {
		t.Errorf("opened what is not there: %v, %v", j, err)
	}
	j, err := OwnRepairs(path)
	must(t, err)
	want := repairs(t)
	must(t, j.Write(want))
	must(t, j.Close())
	must(t, j.Close())
	got, err := ReadRepairs(path)
	must(t, err)
	await.Same(t, "(-want +got)", want, got)
	again, err := OwnExistingRepairs(path)
	must(t, err)
	must(t, again.Remove())
	must(t, again.Close())
	if got := entries(t, path); got != "gone" {
		t.Errorf("left in %s: %s", path, got)
	}
}

// A directory without a journal, which a process left that was killed in between, is nobody's and goes.
func TestRepairsWithoutAJournal(t *testing.T) {
	path := mkdir(t, mountBPF(t), "a")
	mkdir(t, path, repairsDir)
	if j, err := OwnExistingRepairs(path); j != nil || err != nil {
		t.Errorf("opened what is not there: %v, %v", j, err)
	}
	if got := entries(t, path); got != "gone" {
		t.Errorf("left in %s: %s", path, got)
	}
}

// One at a time, whoever owns the pins meanwhile; and who owns them takes the repairs for nobody else's.
func TestRepairsBesideAnOwner(t *testing.T) {
	path := filepath.Join(mountBPF(t), "a")
	j, err := OwnRepairs(path)
	must(t, err)
	must(t, j.Write(repairs(t)))
	if _, err := OwnRepairs(path); err == nil || !strings.Contains(err.Error(), "at work") {
		t.Errorf("two at a time: %v", err)
	}
	if _, err := OwnExistingRepairs(path); err == nil {
		t.Error("two at a time, the second to take back")
	}
	d := own(t, path)
	if d.Created() {
		t.Error("it was there before")
	}
	must(t, createJournal(t, d).Close())
	must(t, j.Write(repairs(t)))
	must(t, j.Close())
	must(t, d.Remove())
	if got := entries(t, path); got != repairsDir {
		t.Errorf("after the owner has gone: %s", got)
	}
	last, err := OwnExistingRepairs(path)
	must(t, err)
	must(t, last.Remove())
	must(t, last.Close())
}

func TestRepairsOfAnotherNamespace(t *testing.T) {
	path := filepath.Join(mountBPF(t), "a")
	j, err := OwnRepairs(path)
	must(t, err)
	foreign := repairs(t)
	foreign.Namespace.Inode++
	foreign.Namespace.Cookie++
	must(t, j.Write(foreign))
	must(t, j.Close())
	for what, open := range map[string]func() error{
		"read":          func() error { _, err := ReadRepairs(path); return err },
		"open":          func() error { _, err := OwnRepairs(path); return err },
		"open existing": func() error { _, err := OwnExistingRepairs(path); return err },
	} {
		if err := open(); !errors.Is(err, ErrForeignNamespace) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if got := entries(t, path); got != repairsDir {
		t.Errorf("after that: %s", got)
	}
}

func TestRepairsInAForeignDirectory(t *testing.T) {
	path := mkdir(t, mountBPF(t), "a")
	mkdir(t, path, "theirs")
	if _, err := OwnRepairs(path); !errors.Is(err, ErrForeignContents) {
		t.Errorf("%v", err)
	}
	if got := entries(t, path); got != "theirs" {
		t.Errorf("after that: %s", got)
	}
	if _, err := OwnRepairs(filepath.Join(t.TempDir(), "a")); !errors.Is(err, ErrNoBPFFS) {
		t.Errorf("on another file system: %v", err)
	}
}
