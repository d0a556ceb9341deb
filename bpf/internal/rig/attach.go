// SPDX-License-Identifier: Apache-2.0

package rig

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// AttachEgress has a program see what leaves by these devices, until detach is called:
// BPF_PROG_TEST_RUN gives a packet a socket that was never bound, nor of any protocol.
// Attached by clsact, which every kernel has.
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
