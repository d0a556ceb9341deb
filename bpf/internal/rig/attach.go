// SPDX-License-Identifier: Apache-2.0

package rig

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/moby/sys/mountinfo"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"replypath/bpf"
)

// AttachEgress has a program see what leaves by these devices, until detach is called: BPF_PROG_TEST_RUN gives a packet
// a socket that was never bound, nor of any protocol. Attached by clsact, which every kernel has.
func (h *Host) AttachEgress(program *ebpf.Program, devices ...Device) (detach func() error, err error) {
	var added []Device
	detach = func() error { return h.Do(func() error { return removeClsact(added) }) }
	err = h.Do(func() error {
		for _, device := range devices {
			if err := netlink.QdiscAdd(clsact(device)); err != nil {
				return fmt.Errorf("add clsact to %s: %w", device.Name, err)
			}
			added = append(added, device)
			if err := netlink.FilterAdd(egressFilter(device, program)); err != nil {
				return fmt.Errorf("attach to the egress of %s: %w", device.Name, err)
			}
		}
		return nil
	})
	if err != nil {
		return nil, errors.Join(err, detach())
	}
	return detach, nil
}

func clsact(device Device) netlink.Qdisc {
	return &netlink.GenericQdisc{
		QdiscAttrs: netlink.QdiscAttrs{
			LinkIndex: int(device.Index),
			Handle:    netlink.MakeHandle(0xffff, 0),
			Parent:    netlink.HANDLE_CLSACT,
		},
		QdiscType: "clsact",
	}
}

func egressFilter(device Device, program *ebpf.Program) netlink.Filter {
	return &netlink.BpfFilter{
		FilterAttrs: netlink.FilterAttrs{
			LinkIndex: int(device.Index),
			Parent:    netlink.HANDLE_MIN_EGRESS,
			Handle:    1,
			Protocol:  unix.ETH_P_ALL,
			Priority:  1,
		},
		Fd:           program.FD(),
		Name:         "rig",
		DirectAction: true,
	}
}

func removeClsact(devices []Device) error {
	var errs []error
	for _, device := range devices {
		if err := netlink.QdiscDel(clsact(device)); err != nil {
			errs = append(errs, fmt.Errorf("remove clsact from %s: %w", device.Name, err))
		}
	}
	return errors.Join(errs...)
}

// AttachSource has the programs that give datagrams their source see what the sockets of this
// process send, until detach is called: BPF_PROG_TEST_RUN does not know such programs.
func (d *Datapath) AttachSource() (detach func() error, err error) {
	cgroup, err := ownCgroup()
	if err != nil {
		return nil, err
	}
	var links []link.Link
	detach = func() error {
		var errs []error
		for _, l := range links {
			errs = append(errs, bpf.Close(l))
		}
		return errors.Join(errs...)
	}
	for kind, program := range map[ebpf.AttachType]*ebpf.Program{
		ebpf.AttachCGroupUDP4Sendmsg: d.ReplypathSendmsg4,
		ebpf.AttachCGroupUDP6Sendmsg: d.ReplypathSendmsg6,
	} {
		l, err := link.AttachCgroup(link.CgroupOptions{Path: cgroup, Attach: kind, Program: program})
		if err != nil {
			return nil, errors.Join(fmt.Errorf("attach to cgroup %s: %w", cgroup, err), detach())
		}
		links = append(links, l)
	}
	return detach, nil
}

// ownCgroup is the path of the cgroup of version 2 that this process is in.
func ownCgroup() (string, error) {
	mounts, err := mountinfo.GetMounts(mountinfo.FSTypeFilter("cgroup2"))
	if err != nil {
		return "", fmt.Errorf("look for cgroup2: %w", err)
	}
	if len(mounts) == 0 {
		return "", errors.New("no cgroup2 file system is mounted")
	}
	groups, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return "", fmt.Errorf("read the cgroups of this process: %w", err)
	}
	for line := range strings.Lines(string(groups)) {
		if path, ok := strings.CutPrefix(line, "0::"); ok {
			return filepath.Join(mounts[0].Mountpoint, strings.TrimSpace(path)), nil
		}
	}
	return "", errors.New("this process is in no cgroup of version 2")
}
