// SPDX-License-Identifier: Apache-2.0

package health

import (
	"testing"

	"replypath/loader/discover"
	"replypath/loader/doctor/snapshot"
	"replypath/test/testhost"
)

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
			"error eht1: " + file + " => write eth1 in the place of eht1 under interfaces in /etc/replypath/replypath.yaml, then systemctl reload replypath",
		}},
		{"a slip on the command line", testhost.Flagged("eht1"), []string{"error eht1: " + flag + " => " + mend}},
		{"a slip on a daemon's command line", func(h *snapshot.Host) { testhost.Flagged("eht1")(h); h.Daemon = &snapshot.Daemon{PID: 7} }, []string{
			"error eht1: " + flag + " => " + mend + "  # in the place of the daemon that runs now",
		}},
		{"nothing like it", func(h *snapshot.Host) {
			testhost.Naming("wan")(h)
			h.Devices[2].AltNames = []string{"enp1s0", "uplink"}
		}, []string{
			"error wan: wan is not there: /etc/replypath/replypath.yaml names it, and nothing is done for it; there are eth0, eth1 (enp1s0, uplink)" +
				" ?? ip link show  # make it, or name one of these in /etc/replypath/replypath.yaml",
		}},
		{"another one of the same kind, which is named itself", func(h *snapshot.Host) { testhost.Naming("eth2")(h); h.Devices = h.Devices[:2] }, []string{
			"error eth2: eth2 is not there: /etc/replypath/replypath.yaml names it, and nothing is done for it; there are eth0" +
				" ?? ip link show  # make it, or name one of these in /etc/replypath/replypath.yaml",
		}},
	})
}

func TestManagedInterfaces(t *testing.T) {
	testhost.Check(t, ManagedInterfaces, []testhost.Wants{
		{"two", nil, []string{"ok: eth0, eth1"}},
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
	testhost.Check(t, MissingPrograms, []testhost.Wants{
		{"not attached", nil, []string{"note: nothing is attached: start replypath run => systemctl start replypath"}},
		{"attached", attached(all...), nil},
		{"half", attached(all[0], all[1], all[2], testhost.Hook(testhost.Eth1, true, false, "theirs", false)), []string{
			"error eth1: eth1 has no program of replypath at egress" + text + " => systemctl restart replypath",
		}},
		{"in another pin directory", func(h *snapshot.Host) {
			attached(all[:3]...)(h)
			h.PinDir, h.ConfigPath = "/sys/fs/bpf/b", "/etc/b.yaml"
		}, []string{
			"error eth1: eth1 has no program of replypath at egress" + text + " => replypath run --pin-dir /sys/fs/bpf/b --config /etc/b.yaml",
		}},
		{"beside a daemon that cannot be seen", func(h *snapshot.Host) {
			attached(all[:3]...)(h)
			h.Daemon = new(snapshot.Daemon)
		}, []string{
			"error eth1: eth1 has no program of replypath at egress, and the daemon, in a PID namespace that cannot be looked into from here, has not put it back" +
				" ?? replypath doctor --pin-dir /sys/fs/bpf/replypath  # where the daemon runs, as on the host or in its container",
		}},
	})
}
