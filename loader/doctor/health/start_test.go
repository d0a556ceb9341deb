// SPDX-License-Identifier: Apache-2.0

package health

import (
	"errors"
	"fmt"
	"io/fs"
	"testing"

	"golang.org/x/sys/unix"

	"replypath/loader/doctor/snapshot"
	"replypath/loader/pins"
	"replypath/test/testhost"
)

func TestPinPlaces(t *testing.T) {
	const usual = "replypath run --pin-dir /sys/fs/bpf/replypath  # names a directory of its own below a bpf file system"
	testhost.Check(t, PinPlaces, []testhost.Wants{
		{"there", nil, nil},
		{"not mounted", testhost.Placed(testhost.ErrNoBPFFS), []string{
			"error: /sys/fs/bpf is not on a bpf file system: nothing can be pinned there => mount -t bpf bpf /sys/fs/bpf",
		}},
		{"another directory", func(h *snapshot.Host) {
			h.PinDir = "/tmp/pins"
			testhost.Placed(fmt.Errorf("/tmp is %w: mount -t bpf bpf /sys/fs/bpf", pins.ErrNoBPFFS))(h)
		}, []string{"error: /tmp is not on a bpf file system => " + usual}},
		{"somebody else's", func(h *snapshot.Host) {
			h.PinDir = "/sys/fs/bpf/x"
			testhost.Placed(fmt.Errorf("/sys/fs/bpf/x: %w", pins.ErrForeignContents))(h)
		}, []string{"error: /sys/fs/bpf/x: it holds what is not replypath's => " + usual}},
		{"somebody else's in the usual place", testhost.Placed(fmt.Errorf("/sys/fs/bpf/replypath: %w", pins.ErrForeignContents)), []string{
			"error: /sys/fs/bpf/replypath: it holds what is not replypath's ?? ls -ld /sys/fs/bpf/replypath  # what is there in its place",
		}},
		{"read-only elsewhere", func(h *snapshot.Host) {
			h.PinDir = "/tmp/pins"
			testhost.Placed(fmt.Errorf("pin into /tmp/pins: %w", unix.EROFS))(h)
		}, []string{"error: pin into /tmp/pins: read-only file system ?? ls -ld /tmp/pins  # what is there in its place"}},
		{"read-only", testhost.Placed(fmt.Errorf("pin into /sys/fs/bpf: %w", unix.EROFS)), []string{
			"error: pin into /sys/fs/bpf: read-only file system => mount -o remount,rw /sys/fs/bpf",
		}},
		{"not ours to write", testhost.Placed(fmt.Errorf("pin into /sys/fs/bpf: %w", fs.ErrPermission)), []string{
			"error: pin into /sys/fs/bpf: permission denied: this process may not ?? replypath doctor  # as root",
		}},
		{"not ours, beside a datapath", func(h *snapshot.Host) {
			h.PinDir, h.Pinned = "/sys/fs/bpf/x", true
			testhost.Placed(fmt.Errorf("pin into /sys/fs/bpf/x: %w", fs.ErrPermission))(h)
		}, []string{
			"note: pin into /sys/fs/bpf/x: permission denied: this process may not ?? replypath doctor --pin-dir /sys/fs/bpf/x  # as root",
		}},
	})
}

func TestKernelAndRights(t *testing.T) {
	testhost.Check(t, KernelTypes, []testhost.Wants{
		{"there", nil, nil},
		{"none", func(h *snapshot.Host) { h.Start.BTF = errors.New("the kernel has no BTF (/sys/kernel/btf/vmlinux)") }, []string{
			"error: the kernel has no BTF (/sys/kernel/btf/vmlinux) ?? uname -r" +
				"  # start a kernel that is built with CONFIG_DEBUG_INFO_BTF=y instead of this one; in a container, mount the host's /sys",
		}},
	})
	testhost.Check(t, KernelPrograms, []testhost.Wants{
		{"there", testhost.Featured("tcx", true), nil},
		{"without tcx", testhost.Featured("tcx", false), []string{
			"note: without tcx: it takes longer ?? uname -r  # kernel 6.6 and later have it",
		}},
		{"without a device", testhost.Featured("fallback_route", false), []string{"note: without fallback_route: it takes longer ?? modinfo dummy ifb  # one of these modules has to be loaded"}},
	})
	lacking := func(h *snapshot.Host) {
		h.Start.Rights = []snapshot.Right{{Name: "CAP_BPF", Purpose: "to load programs"}}
	}
	testhost.Check(t, Capabilities, []testhost.Wants{
		{"all", nil, nil},
		{"one is missing", lacking, []string{
			"error: this process lacks CAP_BPF, which a start needs to load programs ?? replypath doctor  # as root",
		}},
		{"one is missing beside a datapath", func(h *snapshot.Host) { lacking(h); h.Pinned = true }, []string{
			"note: this process lacks CAP_BPF, which a start needs to load programs ?? replypath doctor  # as root",
		}},
	})
}
