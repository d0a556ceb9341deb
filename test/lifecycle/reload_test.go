// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"replypath/test/await"
	"replypath/test/product"
	"replypath/test/server"
	"replypath/test/topology"
	"replypath/test/traffic"
	"replypath/test/wire"
)

// TestReloadRefused wants a bad file logged with its line, shown in the status
// and in the metrics, and forgotten with the next good one. One that is gone is no better than a bad one.
func TestReloadRefused(t *testing.T) {
	n, p := server.NewExact(t)
	config := product.WriteConfig(t, "")
	d := p.Start("--config", config)
	wantRefused := func(says string, eth1 bool) {
		t.Helper()
		d.Reload()
		d.WaitLog(1, "level=ERROR", says)
		await.Says(t, "the status", product.OrEmpty(p.Status().Config.Error), says)
		await.Same(t, "success of the last reload, with "+says, 0, p.Metrics().Sum("replypath_config_last_reload_successful"))
		wire.WantBy(t, n.Server, conversation(t, n, traffic.TCP, topology.IPv4), eth1)
	}
	for text, says := range map[string]string{
		"mode: enforce\nmodes: observe\n":  config + ":2",
		"mode: enforcing\n":                "observe",
		"flow_table: {max_entries: -1}\n":  "max_entries",
		"interfaces: [{name: 'eth0:1'}]\n": "eth0",
	} {
		rewrite(t, config, text)
		wantRefused(says, true)
	}
	rewrite(t, config, "mode: observe\n")
	d.Reload()
	if s := p.Status(); s.Config.Error != nil || s.Mode != "observe" {
		t.Errorf("after a good file: mode %s, error %q", s.Mode, product.OrEmpty(s.Config.Error))
	}
	await.Same(t, "success of the last reload, with a good file", 1, p.Metrics().Sum("replypath_config_last_reload_successful"))
	wire.WantBy(t, n.Server, conversation(t, n, traffic.TCP, topology.IPv4), false)
	await.Must(t, os.Remove(config))
	wantRefused("no such file", false)
}

// TestReloadRunningDatagrams has configurations put in force, by a reload and by a restart, that record what has been going
// on for long, and by which the host does not speak first: of an interface that was not
// managed, of a peer that was excluded, of a protocol that was not listed.
func TestReloadRunningDatagrams(t *testing.T) {
	n, p := server.NewExact(t)
	config := product.WriteConfig(t, "interfaces: [{name: eth0}]\n")
	d := p.Start("--config", config)
	p.WaitGrace()
	for _, before := range []string{"interfaces: [{name: eth0}]\n", "exclude: [{protocol: udp}]\n", "protocols: [tcp]\n"} {
		for _, byReload := range []bool{true, false} {
			rewrite(t, config, before)
			d.Reload()
			routed, moved := 0, 0
			var running []*traffic.Conversation
			for _, f := range n.Families() {
				c := conversation(t, n, traffic.UDP, f)
				routed += len(wire.WantBy(t, n.Server, c, false))
				running = append(running, c)
			}
			rewrite(t, config, "")
			if byReload {
				d.Reload()
			} else {
				d.Stop(unix.SIGTERM)
				d = p.Start("--config", config)
			}
			for _, c := range running {
				moved += len(wire.WantBy(t, n.Server, c, true))
			}
			t.Logf("after %q, by reload %t, %d conversations by UDP, IPv4 and IPv6, go on: "+
				"%d answers by eth0 before, %d by eth1 with the next question", before, byReload, len(running), routed, moved)
		}
	}
}

// TestReloadInterfaces takes an interface out of the configuration and back into it, and has it observed alone.
func TestReloadInterfaces(t *testing.T) {
	n, p := server.NewExact(t)
	config, before := product.WriteConfig(t, ""), snapshot(t, n)
	d := p.Start("--config", config)
	running := conversations(t, n)
	const all = 4 // lo, eth0, eth1 and replypath0
	for _, step := range []struct {
		text    string
		managed int
		byEth1  bool
	}{
		{"", 2, true},
		{"interfaces: [{name: eth0}, {name: eth1, mode: observe}]\n", 2, false},
		{"interfaces: [{name: eth0}, {name: eth1}]\n", 2, true},
		{"interfaces: [{name: eth0}]\n", 1, false},
		{"ignore_interfaces: [eth0]\n", 1, true}, // replies are caught there
		{"", 2, true},
	} {
		rewrite(t, config, step.text)
		d.Reload()
		s := p.Status()
		if s.Managed() != step.managed || step.managed+len(s.Unmanaged) != all {
			t.Errorf("after %q: interfaces %+v, unmanaged %+v", step.text, s.Interfaces, s.Unmanaged)
		}
		for _, c := range running {
			wire.WantBy(t, n.Server, c, step.byEth1)
		}
	}
	p.Expect(0, "detach", "--stop")
	await.Same(t, "host after detach", before, snapshot(t, n))
}
