// SPDX-License-Identifier: Apache-2.0

// Package source gives what wildcard UDP sockets answer the source address that
// they were asked on: it finds such sockets, and attaches the programs that do it
// to the cgroup that all processes are in.
package source

import (
	"errors"
	"fmt"
	"path/filepath"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"replypath/loader/attach"
	"replypath/loader/sockets"
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

// link is that of a hook. Its cgroup is 0 once that is gone (cgroup_bpf.c, bpf_cgroup_link_fill_link_info()).
func (h hook) link(dir string) *attach.PinnedLink {
	return &attach.PinnedLink{
		Path: filepath.Join(dir, h.name), Place: "the cgroup, " + h.name,
		IsThere: func(info *link.Info) (bool, error) {
			cgroup := info.Cgroup()
			return cgroup != nil && cgroup.CgroupId != 0, nil
		},
	}
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
		isNew, err := h.link(dir).Put(programs.of(h), func() (link.Link, error) {
			return link.AttachCgroup(link.CgroupOptions{Path: cgroup, Attach: h.kind, Program: programs.of(h)})
		})
		if err != nil {
			for _, h := range added {
				_, removeErr := h.link(dir).Remove()
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

// Attached tells whether both programs are attached by links that are pinned in
// the directory.
func Attached(dir string) (bool, error) {
	for _, h := range hooks {
		if attached, err := h.link(dir).IsAttached(); !attached || err != nil {
			return false, err
		}
	}
	return true, nil
}

// Detach takes the programs off and removes their pins. It tells whether there
// were any.
func Detach(dir string) (removed bool, err error) {
	var errs []error
	for _, h := range hooks {
		was, err := h.link(dir).Remove()
		removed = removed || was
		errs = append(errs, err)
	}
	return removed, errors.Join(errs...)
}

// Wildcard returns the ports of unconnected UDP sockets of the calling thread's
// network namespace that are bound to no address, of both families. Some may
// belong to clients: a socket does not show who chose its port.
func Wildcard() ([]uint16, error) {
	var ports []uint16
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		list, err := sockets.All(unix.IPPROTO_UDP, family)
		if err != nil {
			return nil, fmt.Errorf("list udp sockets (is CONFIG_INET_UDP_DIAG there?): %w", err)
		}
		for _, s := range list {
			if s.State != sockets.Established && s.Local.Addr().IsUnspecified() {
				ports = append(ports, s.Local.Port())
			}
		}
	}
	return ports, nil
}
