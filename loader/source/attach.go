// SPDX-License-Identifier: Apache-2.0

// Package source gives what wildcard UDP sockets answer the source address that
// they were asked on: it finds such sockets, and attaches the programs that do it
// to the cgroup that all processes are in.
package source

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"replypath/bpf"
)

// Programs are what is attached to a cgroup. They see the sockets of every
// network namespace and act on those of one.
type Programs struct {
	Send4 *ebpf.Program `ebpf:"replypath_sendmsg4"` // IPv4, from IPv6 sockets too
	Send6 *ebpf.Program `ebpf:"replypath_sendmsg6"`
}

func (p *Programs) of(h hook) *ebpf.Program {
	if h.kind == ebpf.AttachCGroupUDP4Sendmsg {
		return p.Send4
	}
	return p.Send6
}

// hook is a place where one of the programs belongs. Its link is pinned by this
// name.
type hook struct {
	name string
	kind ebpf.AttachType
}

var hooks = []hook{
	{"sendmsg4", ebpf.AttachCGroupUDP4Sendmsg},
	{"sendmsg6", ebpf.AttachCGroupUDP6Sendmsg},
}

// Pins returns the paths at which links are pinned in the directory.
func Pins(dir string) []string {
	var paths []string
	for _, h := range hooks {
		paths = append(paths, filepath.Join(dir, h.name))
	}
	return paths
}

// Attach puts the programs in the place of those whose links are pinned in the
// directory, or attaches them to a cgroup, beside those of others. It tells
// whether one was not attached before. On error what it newly attached is taken
// off again.
func Attach(dir, cgroup string, programs *Programs) (fresh bool, err error) {
	var added []hook
	for _, h := range hooks {
		isNew, err := attach(dir, cgroup, h, programs.of(h))
		if err != nil {
			for _, h := range added {
				_, removeErr := remove(dir, h)
				err = errors.Join(err, removeErr)
			}
			return false, err
		}
		if isNew {
			added = append(added, h)
		}
	}
	return len(added) > 0, nil
}

func attach(dir, cgroup string, h hook, program *ebpf.Program) (fresh bool, err error) {
	err = update(dir, h, program)
	if err == nil || !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	l, err := link.AttachCgroup(link.CgroupOptions{Path: cgroup, Attach: h.kind, Program: program})
	if err != nil {
		return false, fmt.Errorf("attach %s to cgroup %s: %w", h.name, cgroup, err)
	}
	defer bpf.Close(l)
	if err := l.Pin(filepath.Join(dir, h.name)); err != nil {
		return false, fmt.Errorf("pin %s: %w", h.name, err)
	}
	return true, nil
}

// update replaces the program of a pinned link. The error matches
// fs.ErrNotExist where there is none, or one whose cgroup is gone.
func update(dir string, h hook, program *ebpf.Program) error {
	path := filepath.Join(dir, h.name)
	l, err := link.LoadPinnedLink(path, nil)
	if err != nil {
		return fmt.Errorf("open pinned %s: %w", h.name, err)
	}
	defer bpf.Close(l)
	err = l.Update(program)
	if errors.Is(err, unix.ENOLINK) {
		return errors.Join(fs.ErrNotExist, os.Remove(path))
	}
	if err != nil {
		return fmt.Errorf("replace %s: %w", h.name, err)
	}
	return nil
}

// Attached tells whether both programs are attached by links that are pinned in
// the directory.
func Attached(dir string) (bool, error) {
	for _, h := range hooks {
		l, err := link.LoadPinnedLink(filepath.Join(dir, h.name), nil)
		if errors.Is(err, fs.ErrNotExist) {
			return false, nil
		}
		if err != nil {
			return false, fmt.Errorf("open pinned %s: %w", h.name, err)
		}
		info, err := l.Info()
		err = errors.Join(err, bpf.Close(l))
		if err != nil {
			return false, fmt.Errorf("look at %s: %w", h.name, err)
		}
		// 0 once the cgroup is gone (cgroup_bpf.c, bpf_cgroup_link_fill_link_info()).
		if cgroup := info.Cgroup(); cgroup == nil || cgroup.CgroupId == 0 {
			return false, nil
		}
	}
	return true, nil
}

// Detach takes the programs off and removes their pins. It tells whether there
// were any.
func Detach(dir string) (removed bool, err error) {
	var errs []error
	for _, h := range hooks {
		was, err := remove(dir, h)
		removed = removed || was
		errs = append(errs, err)
	}
	return removed, errors.Join(errs...)
}

// remove detaches before it unpins: somebody may hold the link open.
func remove(dir string, h hook) (removed bool, err error) {
	path := filepath.Join(dir, h.name)
	l, err := link.LoadPinnedLink(path, nil)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("open pinned %s: %w", h.name, err)
	}
	defer bpf.Close(l)
	if err := l.Detach(); err != nil && !errors.Is(err, unix.ENOLINK) {
		return false, fmt.Errorf("detach %s: %w", h.name, err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, fmt.Errorf("unpin %s: %w", h.name, err)
	}
	return true, nil
}
