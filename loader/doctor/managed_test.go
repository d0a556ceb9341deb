package doctor

import (
	"testing"

	"replypath/loader/discover"
)

func TestManagedInterfaces(t *testing.T) {
	runTable(t, managedInterfaces, []wants{
		{"two", nil, []string{"ok: eth0, eth1"}},
		{"none", func(h *Host) {
			h.Interfaces = nil
			h.Unmanaged = []discover.Unmanaged{{Name: "lo", Reason: "loopback"}, {Name: "eth0", Reason: "no global address"}}
		}, []string{"error: no interface is managed (lo: loopback; eth0: no global address)" +
			" => set interfaces: [{name: eth0}] in /etc/replypath/replypath.yaml, then systemctl reload replypath"}},
		{"nothing there", func(h *Host) {
			h.Interfaces = nil
			h.Unmanaged = []discover.Unmanaged{{Name: "lo", Reason: "loopback"}}
		}, []string{"error: no interface is managed (lo: loopback)" +
			" ?? ip -brief address show  # no interface here can be managed: give the host one with a global address"}},
	})
}

func TestMissingPrograms(t *testing.T) {
	const text = ": a running daemon puts it back within a second, else start replypath run"
	all := []Hook{hook(eth0, false, true, "i", true), hook(eth0, true, true, "e", true), hook(eth1, false, false, "i", true), hook(eth1, true, false, "e", true)}
	attached := func(hooks ...Hook) func(*Host) { return func(h *Host) { h.Attached, h.Hooks = true, hooks } }
	runTable(t, missingPrograms, []wants{
		{"not attached", nil, nil},
		{"attached", attached(all...), nil},
		{"half", attached(all[0], all[1], all[2], hook(eth1, true, false, "theirs", false)), []string{
			"error eth1: no program of replypath at egress" + text + " => systemctl restart replypath",
		}},
		{"in another pin directory", func(h *Host) {
			attached(all[:3]...)(h)
			h.PinDir, h.ConfigPath = "/sys/fs/bpf/b", "/etc/b.yaml"
		}, []string{
			"error eth1: no program of replypath at egress" + text + " => replypath run --pin-dir /sys/fs/bpf/b --config /etc/b.yaml",
		}},
		{"beside a daemon that cannot be seen", func(h *Host) {
			attached(all[:3]...)(h)
			h.Daemon = new(Daemon)
		}, []string{
			"error eth1: no program of replypath at egress, and the daemon, in a PID namespace that cannot be looked into from here, has not put it back" +
				" ?? replypath doctor --pin-dir /sys/fs/bpf/replypath  # where the daemon runs, as on the host or in its container",
		}},
	})
}
