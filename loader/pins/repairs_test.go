// SPDX-License-Identifier: Apache-2.0

package pins

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
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
