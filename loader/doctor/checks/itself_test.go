// SPDX-License-Identifier: Apache-2.0

package checks

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"replypath/loader/discover"
	"replypath/loader/doctor/snapshot"
	"replypath/loader/flows"
	"replypath/loader/kernel"
	"replypath/loader/pins"
	"replypath/test/testhost"
)

func TestPinPlaces(t *testing.T) {
	const usual = "replypath run --pin-dir /sys/fs/bpf/replypath  # names a directory of its own below a bpf file system"
	testhost.Check(t, PinPlaces, []testhost.Wants{
		{"there", nil, nil},
		{"not mounted", testhost.Placed(testhost.ErrNoBPFFS), []string{"error: /sys/fs/bpf is not on a bpf file system: nothing can be pinned there => mount -t bpf bpf /sys/fs/bpf"}},
		{"another directory", func(h *snapshot.Host) {
			h.PinDir = "/tmp/pins"
			testhost.Placed(fmt.Errorf("/tmp is %w: mount -t bpf bpf /sys/fs/bpf", pins.ErrNoBPFFS))(h)
		}, []string{"error: /tmp is not on a bpf file system => " + usual}},
		{"somebody else's", func(h *snapshot.Host) {
			h.PinDir = "/sys/fs/bpf/x"
			testhost.Placed(fmt.Errorf("/sys/fs/bpf/x: %w", pins.ErrForeignContents))(h)
		}, []string{"error: /sys/fs/bpf/x: it holds what is not replypath's => " + usual}},
		{"somebody else's in the usual place", testhost.Placed(fmt.Errorf("/sys/fs/bpf/replypath: %w", pins.ErrForeignContents)), []string{
			"error: /sys/fs/bpf/replypath: it holds what is not replypath's ?? ls -ld /sys/fs/bpf/replypath  # what is there in its place"}},
		{"read-only elsewhere", func(h *snapshot.Host) {
			h.PinDir = "/tmp/pins"
			testhost.Placed(fmt.Errorf("pin into /tmp/pins: %w", unix.EROFS))(h)
		}, []string{"error: pin into /tmp/pins: read-only file system ?? ls -ld /tmp/pins  # what is there in its place"}},
		{"read-only", testhost.Placed(fmt.Errorf("pin into /sys/fs/bpf: %w", unix.EROFS)), []string{"error: pin into /sys/fs/bpf: read-only file system => mount -o remount,rw /sys/fs/bpf"}},
		{"not ours to write", testhost.Placed(fmt.Errorf("pin into /sys/fs/bpf: %w", fs.ErrPermission)), []string{
			"error: pin into /sys/fs/bpf: permission denied: this process may not ?? replypath doctor  # as root"}},
		{"not ours, beside a datapath", func(h *snapshot.Host) {
			h.PinDir, h.Pinned = "/sys/fs/bpf/x", true
			testhost.Placed(fmt.Errorf("pin into /sys/fs/bpf/x: %w", fs.ErrPermission))(h)
		}, []string{"note: pin into /sys/fs/bpf/x: permission denied: this process may not ?? replypath doctor --pin-dir /sys/fs/bpf/x  # as root"}},
	})
}

func TestKernelAndRights(t *testing.T) {
	testhost.Check(t, KernelTypes, []testhost.Wants{
		{"there", nil, nil},
		{"none", func(h *snapshot.Host) { h.Start.BTF = errors.New("the kernel has no BTF (/sys/kernel/btf/vmlinux)") }, []string{
			"error: the kernel has no BTF (/sys/kernel/btf/vmlinux) ?? uname -r" +
				"  # start a kernel that is built with CONFIG_DEBUG_INFO_BTF=y instead of this one; in a container, mount the host's /sys"}},
	})
	testhost.Check(t, KernelPrograms, []testhost.Wants{
		{"there", testhost.Featured("tcx", true), nil},
		{"no programs", func(h *snapshot.Host) { h.Start.Programs = errors.New("bpf(2) is refused") }, []string{"error: bpf(2) is refused" +
			" ?? uname -r  # start kernel 5.10 or later instead of this one, and let no filter of system calls keep bpf(2) from this process"}},
		{"without what is new", testhost.Featured("of later", false), []string{"note: without of later: it takes longer ?? uname -r  # another kernel may have it"}},
		{"without tcx", testhost.Featured("tcx", false), []string{"note: without tcx: it takes longer ?? uname -r  # kernel 6.6 and later have it"}},
		{"without a device", testhost.Featured("fallback_route", false), []string{"note: without fallback_route: it takes longer ?? modinfo dummy ifb  # one of these modules has to be loaded"}},
	})
	lacking := func(h *snapshot.Host) { h.Start.Rights = kernel.Rights[:1] }
	testhost.Check(t, Capabilities, []testhost.Wants{
		{"all", nil, nil},
		{"one is missing", lacking, []string{"error: this process lacks CAP_BPF, which a start needs to load programs and make maps ?? replypath doctor  # as root"}},
		{"one is missing beside a datapath", func(h *snapshot.Host) { lacking(h); h.Pinned = true }, []string{
			"note: this process lacks CAP_BPF, which a start needs to load programs and make maps ?? replypath doctor  # as root"}},
	})
}

func TestConfigurations(t *testing.T) {
	const at = "at 2026-03-01 12:30:00"
	testhost.Check(t, Configurations, []testhost.Wants{
		{"nothing is attached", nil, nil},
		{"a file and flags", testhost.InForce(testhost.Flags), []string{"ok: in force: /etc/replypath/replypath.yaml with --interface eth1 --observe, loaded " + at}},
		{"neither", testhost.InForce(func(f *snapshot.InForce) { f.Path = "" }), []string{"ok: in force: the defaults, loaded " + at}},
		{"not written down", testhost.InForce(func(f *snapshot.InForce) { f.Config = nil }), []string{"ok: in force: /etc/replypath/replypath.yaml, loaded " + at}},
		{"no daemon", testhost.InForce(func(f *snapshot.InForce) { testhost.Flags(f); f.Running = false }), []string{
			"warning: no daemon runs: what is attached goes on by /etc/replypath/replypath.yaml with --interface eth1 --observe, loaded " + at +
				", and follows neither new interfaces and addresses nor gateways => systemctl start replypath"}},
		{"refused", testhost.InForce(func(f *snapshot.InForce) { f.Refused = "x:1: mode" }), []string{
			"warning: a later configuration was refused: the one before stays: x:1: mode ?? replypath check --config /etc/replypath/replypath.yaml"}},
		{"refused, and wrong still", testhost.InForce(func(f *snapshot.InForce) { f.Refused, f.File, f.Wrong = "x:1: mode", "x:1: mode", true }), []string{
			"warning: a later configuration was refused: the one before stays: x:1: mode, and the next start fails" +
				" ?? replypath check --config /etc/replypath/replypath.yaml"}},
		{"refused, and right by now", testhost.InForce(func(f *snapshot.InForce) { f.Refused, f.File = "x:1: mode", "it has changed since it was loaded" }), []string{
			"warning: /etc/replypath/replypath.yaml: it has changed since it was loaded: in force is what was loaded " + at + " => kill -HUP 7"}},
		{"changed", testhost.InForce(func(f *snapshot.InForce) { f.File = "it has changed since it was loaded" }), []string{
			"warning: /etc/replypath/replypath.yaml: it has changed since it was loaded: in force is what was loaded " + at + " => kill -HUP 7"}},
		{"changed, and no daemon", testhost.InForce(func(f *snapshot.InForce) { f.File, f.Running = "it has changed since it was loaded", false }), []string{
			"warning: no daemon runs: what is attached goes on by /etc/replypath/replypath.yaml, loaded " + at + ", and follows neither new interfaces and addresses nor gateways => systemctl start replypath",
			"warning: /etc/replypath/replypath.yaml: it has changed since it was loaded: in force is what was loaded " + at + " => systemctl start replypath"}},
		{"gone", testhost.InForce(func(f *snapshot.InForce) { f.File, f.Wrong = "it is gone: put it back", true }), []string{
			"warning: /etc/replypath/replypath.yaml: it is gone: put it back: in force is what it said " + at +
				", and the next start fails ?? replypath check --config /etc/replypath/replypath.yaml"}},
	})
}

func TestMissingInterfaces(t *testing.T) {
	const (
		file = "eht1 is not there: /etc/replypath/replypath.yaml names it, and nothing is done for it; eth1 is there"
		flag = "eht1 is not there: --interface names it, and nothing is done for it; eth1 is there"
		mend = "replypath run --interface eth0 --interface eth1"
	)
	testhost.Check(t, MissingInterfaces, []testhost.Wants{
		{"none is named", nil, nil},
		{"all are there", testhost.Naming("eth1"), nil},
		{"a glob stands for what comes", testhost.Naming("wan*"), nil},
		{"by an alternative name", func(h *snapshot.Host) { testhost.Naming("uplink")(h); h.Devices[2].AltNames = []string{"uplink"} }, nil},
		{"a slip in the file", testhost.Naming("eht1"), []string{
			"error eht1: " + file + " => write eth1 in the place of eht1 under interfaces in /etc/replypath/replypath.yaml, then systemctl reload replypath"}},
		{"a slip on the command line", testhost.Flagged("eht1"), []string{"error eht1: " + flag + " => " + mend}},
		{"a slip on a daemon's command line", func(h *snapshot.Host) { testhost.Flagged("eht1")(h); h.Daemon = &snapshot.Daemon{PID: 7} }, []string{
			"error eht1: " + flag + " => " + mend + "  # in the place of the daemon that runs now"}},
		{"nothing like it", func(h *snapshot.Host) {
			testhost.Naming("wan")(h)
			h.Devices[2].AltNames = []string{"enp1s0", "uplink"}
		}, []string{
			"error wan: wan is not there: /etc/replypath/replypath.yaml names it, and nothing is done for it; there are eth0, eth1 (enp1s0, uplink)" +
				" ?? ip link show  # make it, or name one of these in /etc/replypath/replypath.yaml"}},
		{"another one of the same kind, which is named itself", func(h *snapshot.Host) { testhost.Naming("eth2")(h); h.Devices = h.Devices[:2] }, []string{
			"error eth2: eth2 is not there: /etc/replypath/replypath.yaml names it, and nothing is done for it; there are eth0" +
				" ?? ip link show  # make it, or name one of these in /etc/replypath/replypath.yaml"}},
	})
}

func TestManagedInterfaces(t *testing.T) {
	const guest = "note vmbr1: vmbr1 records requests for its own addresses only: a bridge to a container or virtual machine, which no route leads out of. " +
		"Its rp_filter stays. If a router is there, set interfaces: [{name: eth0}, {name: eth1}, {name: vmbr1}] in /etc/replypath/replypath.yaml, " +
		"then systemctl reload replypath ?? ip link show master vmbr1"
	testhost.Check(t, ManagedInterfaces, []testhost.Wants{
		{"two", nil, []string{"ok: eth0, eth1"}},
		{"and a bridge with a guest", func(h *snapshot.Host) { h.Guests = []discover.Interface{{Name: "vmbr1"}} }, []string{guest, "ok: eth0, eth1"}},
		{"one that is strict", func(h *snapshot.Host) {
			h.Guests, h.RPFilterDrops = []discover.Interface{{Name: "vmbr1"}}, new(uint64(7))
			h.Settings["net.ipv4.conf.vmbr1.rp_filter"] = 1
		}, []string{strings.Replace(guest, "rp_filter stays", "rp_filter stays strict: it drops requests by ipv4 from beyond the bridge; "+
			"7 packets were dropped so in this network namespace since it began", 1), "ok: eth0, eth1"}},
		{"one that is served", func(h *snapshot.Host) {
			h.Guests, h.Flows = []discover.Interface{{Name: "vmbr1", Index: 9}}, []flows.Flow{{Interface: new("vmbr1"), Peer: "10.9.0.5"}}
		}, []string{"ok: eth0, eth1"}},
		{"none", func(h *snapshot.Host) {
			h.Interfaces = nil
			h.Unmanaged = []discover.Unmanaged{{Name: "lo", Reason: "loopback"}, {Name: "eth0", Reason: "no global address"}}
		}, []string{"error: no interface is managed: lo: loopback; eth0: no global address" +
			" => set interfaces: [{name: eth0}] in /etc/replypath/replypath.yaml, then systemctl reload replypath"}},
		{"nothing there", func(h *snapshot.Host) {
			h.Interfaces = nil
			h.Unmanaged = []discover.Unmanaged{{Name: "lo", Reason: "loopback"}}
		}, []string{"error: no interface is managed: lo: loopback" +
			" ?? ip -brief address show  # no interface here can be managed: give the host one with a global address"}},
	})
}

func TestMissingPrograms(t *testing.T) {
	const text = ": a running daemon puts it back within a second, else start replypath run"
	all := []snapshot.Hook{testhost.Hook(testhost.Eth0, false, true, "i", true), testhost.Hook(testhost.Eth0, true, true, "e", true), testhost.Hook(testhost.Eth1, false, false, "i", true), testhost.Hook(testhost.Eth1, true, false, "e", true)}
	attached := func(hooks ...snapshot.Hook) func(*snapshot.Host) {
		return func(h *snapshot.Host) { h.Attached, h.Hooks = true, hooks }
	}
	occupied := func(h *snapshot.Host) { h.Ingress = []int{testhost.Eth0} }
	const occupies = "error eth0: an ingress qdisc of somebody else is on eth0, where replypath needs clsact: without tcx (kernel 6.6) only one of both can be there, " +
		"so replies go as routed. Its filters would do in clsact, too: tc filter add dev eth0 ingress ?? tc qdisc show dev eth0 ingress"
	testhost.Check(t, MissingPrograms, []testhost.Wants{
		{"an ingress qdisc beside tcx, another interface by clsact", testhost.And(attached(all...), occupied), nil},
		{"an ingress qdisc in the way", testhost.And(attached(all[2:]...), occupied), []string{occupies}},
		{"an ingress qdisc in the way of a start", testhost.And(occupied, func(h *snapshot.Host) { h.TCX = false }), []string{
			occupies, "note: nothing is attached: start replypath run => systemctl start replypath"}},
		{"not attached", nil, []string{"note: nothing is attached: start replypath run => systemctl start replypath"}},
		{"attached", attached(all...), nil},
		{"half", attached(all[0], all[1], all[2], testhost.Hook(testhost.Eth1, true, false, "theirs", false)), []string{
			"error eth1: eth1 has no program of replypath at egress" + text + " => systemctl restart replypath"}},
		{"in another pin directory", func(h *snapshot.Host) {
			attached(all[:3]...)(h)
			h.PinDir, h.ConfigPath = "/sys/fs/bpf/b", "/etc/b.yaml"
		}, []string{"error eth1: eth1 has no program of replypath at egress" + text + " => replypath run --pin-dir /sys/fs/bpf/b --config /etc/b.yaml"}},
		{"beside a daemon that cannot be seen", func(h *snapshot.Host) {
			attached(all[:3]...)(h)
			h.Daemon = new(snapshot.Daemon)
		}, []string{
			"error eth1: eth1 has no program of replypath at egress, and the daemon, in a PID namespace that cannot be looked into from here, has not put it back" +
				" ?? replypath doctor --pin-dir /sys/fs/bpf/replypath  # where the daemon runs, as on the host or in its container"}},
	})
}
