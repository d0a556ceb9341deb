// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"replypath/test/harness"
	"replypath/test/topology"
)

// configured is a configuration file that a test rewrites.
type configured struct {
	t    *testing.T
	path string
}

func newConfig(t *testing.T, text string) *configured {
	t.Helper()
	c := &configured{t: t, path: filepath.Join(t.TempDir(), "replypath.yaml")}
	c.write(text)
	return c
}

func (c *configured) write(text string) {
	c.t.Helper()
	harness.Must(c.t, os.WriteFile(c.path, []byte(text), 0o644))
}

// TestReload changes the configuration under running flows: none is lost by it,
// and what is wrong with a file changes nothing but what is said about it.
func TestReload(t *testing.T) {
	n := newServer(t)
	p := harness.On(t, n.Server.Host)
	config := newConfig(t, "log: {level: info}\n")
	d := p.Start("--config", config.path)
	all := keepAskingAll(t, n)
	flows := len(p.Flows())
	for _, text := range []string{
		"log: {level: debug}\n",
		"mode: enforcing\n", // refused
		"follow: latest\nmanage_rp_filter: false\n",
		"interfaces: [{name: 'eth*'}]\nexclude: [192.0.2.0/24]\n",
	} {
		config.write(text)
		d.Reload()
		goOn(all)
	}
	for _, r := range all {
		r.end()
	}
	if now := len(p.Flows()); now != flows {
		t.Errorf("%d flows, not %d as before", now, flows)
	}
}

// TestReloadRefused wants a bad file logged with its line, shown in the status
// and in the metrics, and forgotten with the next good one.
func TestReloadRefused(t *testing.T) {
	n := newServer(t)
	p := harness.On(t, n.Server.Host)
	config := newConfig(t, "")
	d := p.Start("--config", config.path)
	for _, bad := range []struct{ text, says string }{
		{"mode: enforce\nmodes: observe\n", config.path + ":2"},
		{"mode: enforcing\n", "observe"},
		{"flow_table: {max_entries: -1}\n", "max_entries"},
		{"interfaces: [{name: 'eth0:1'}]\n", "eth0"},
	} {
		config.write(bad.text)
		d.Reload()
		d.WaitLog(1, "level=ERROR", bad.says)
		s := p.Status()
		if s.Config.Error == nil || !strings.Contains(*s.Config.Error, bad.says) {
			t.Errorf("after %q the status says %v", bad.text, deref(s.Config.Error))
		}
		if got := p.Metrics().Sum("replypath_config_last_reload_successful"); got != 0 {
			t.Errorf("after %q the last reload counts as successful", bad.text)
		}
		harness.WantBy(t, n.Server, conversation(t, n, harness.TCP, topology.IPv4), true)
	}
	config.write("mode: observe\n")
	d.Reload()
	s := p.Status()
	if s.Config.Error != nil || s.Mode != "observe" {
		t.Errorf("after a good file: mode %s, error %s", s.Mode, deref(s.Config.Error))
	}
	if got := p.Metrics().Sum("replypath_config_last_reload_successful"); got != 1 {
		t.Error("after a good file the last reload counts as failed")
	}
	harness.WantBy(t, n.Server, conversation(t, n, harness.TCP, topology.IPv4), false)
}

// TestReloadExclude has a peer excluded and included again in mid-connection.
func TestReloadExclude(t *testing.T) {
	n := newServer(t)
	p := harness.On(t, n.Server.Host)
	config := newConfig(t, "")
	d := p.Start("--config", config.path)
	for _, f := range n.Families() {
		harness.WantBy(t, n.Server, conversation(t, n, harness.TCP, f), true)
	}
	peer := n.ClientEth0.Address(topology.IPv4)
	config.write(fmt.Sprintf("exclude: [{peer: %s, protocol: tcp}]\n", peer))
	d.Reload()
	harness.WantBy(t, n.Server, conversation(t, n, harness.TCP, topology.IPv4), false)
	harness.WantBy(t, n.Server, conversation(t, n, harness.UDP, topology.IPv4), true)
	harness.WantBy(t, n.Server, conversation(t, n, harness.TCP, topology.IPv6), true)
	config.write("")
	d.Reload()
	harness.WantBy(t, n.Server, conversation(t, n, harness.TCP, topology.IPv4), true)
}

// TestReloadRunningDatagrams has configurations put in force that record what has been going
// on for long, and by which the host does not speak first: of an interface that was not
// managed, of a peer that was excluded, of a protocol that was not listed.
func TestReloadRunningDatagrams(t *testing.T) {
	for name, before := range map[string]string{
		"interface": "interfaces: [{name: eth0}]\n",
		"exclusion": "exclude: [{protocol: udp}]\n",
		"protocol":  "protocols: [tcp]\n",
	} {
		for _, byReload := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s/by reload %t", name, byReload), func(t *testing.T) { recordMore(t, before, byReload) })
		}
	}
}

// recordMore has everything recorded after a configuration that did not, by a reload or by
// a restart.
func recordMore(t *testing.T, before string, byReload bool) {
	t.Helper()
	n := newServer(t)
	p := harness.On(t, n.Server.Host)
	config := newConfig(t, before)
	d := p.Start("--config", config.path)
	p.WaitGrace()
	var running []*harness.Conversation
	routed, moved := 0, 0
	for _, f := range n.Families() {
		c := conversation(t, n, harness.UDP, f)
		routed += len(harness.WantBy(t, n.Server, c, false))
		running = append(running, c)
	}
	config.write("")
	if byReload {
		d.Reload()
	} else {
		d.Stop(unix.SIGTERM)
		p.Start("--config", config.path)
	}
	for _, c := range running {
		moved += len(harness.WantBy(t, n.Server, c, true))
	}
	t.Logf("%d conversations by UDP, IPv4 and IPv6, go on: %d answers by eth0 before, %d by eth1 with the next question",
		len(running), routed, moved)
}

// TestReloadInterfaces takes an interface out of the configuration and back into
// it, and has it observed alone.
func TestReloadInterfaces(t *testing.T) {
	n := newServer(t)
	p := harness.On(t, n.Server.Host)
	config := newConfig(t, "")
	before := snapshot(t, n)
	d := p.Start("--config", config.path)
	var conversations []*harness.Conversation
	for _, f := range n.Families() {
		for _, kind := range harness.Kinds {
			c := conversation(t, n, kind, f)
			harness.WantBy(t, n.Server, c, true)
			conversations = append(conversations, c)
		}
	}
	const all = 4 // lo, eth0, eth1 and replypath0
	for _, step := range []struct {
		text    string
		managed int
		byEth1  bool
	}{
		{"interfaces: [{name: eth0}, {name: eth1, mode: observe}]\n", 2, false},
		{"interfaces: [{name: eth0}, {name: eth1}]\n", 2, true},
		{"interfaces: [{name: eth0}]\n", 1, false},
		{"ignore_interfaces: [eth0]\n", 1, false},
		{"", 2, true},
	} {
		config.write(step.text)
		d.Reload()
		s := p.Status()
		if len(s.Interfaces) != step.managed || len(s.Interfaces)+len(s.Unmanaged) != all {
			t.Errorf("after %q: interfaces %+v, unmanaged %+v", step.text, s.Interfaces, s.Unmanaged)
		}
		for _, c := range conversations {
			harness.WantBy(t, n.Server, c, step.byEth1)
		}
	}
	p.Expect(0, "detach", "--stop")
	if diff := before.Diff(snapshot(t, n)); diff != "" {
		t.Errorf("host after detach (-before +after):\n%s", diff)
	}
}

// TestBadConfiguration starts nothing with one: exit code 2, and one line that
// names the file, the line, the key and what is allowed.
func TestBadConfiguration(t *testing.T) {
	n := newServer(t)
	p := harness.On(t, n.Server.Host)
	for _, bad := range []struct {
		text  string
		words []string
	}{
		{"\nmod: observe\n", []string{":2:", "mod"}},
		{"mode: watch\n", []string{":1:", "mode", "enforce", "observe"}},
		{"mode: [enforce]\n", []string{":1:", "mode"}},
		{"exclude: [10.0.0.0/33]\n", []string{":1:", "exclude", "10.0.0.0/33"}},
		{"interfaces:\n- name: eth1\n  gateways: [10.2.0]\n", []string{":3:", "gateways", "10.2.0"}},
		{"flow_table: {max_entries: 99999999999}\n", []string{":1:", "max_entries"}},
		{"interfaces: [{name: " + strings.Repeat("x", 16) + "}]\n", []string{":1:", "name"}},
		{"interfaces: [{name: " + strings.Repeat("x", 128) + "}]\n", []string{":1:", "name"}}, // also for an alternative name
		{"interfaces: [{name: a/b}]\n", []string{":1:", "name"}},
		{"interfaces: [{name: 'eth0:1'}]\n", []string{":1:", "eth0:1", "eth0"}},
	} {
		config := newConfig(t, bad.text)
		for _, command := range []string{"run", "check"} {
			r := p.Expect(2, command, "--config", config.path)
			wantOneLine(t, r, append(bad.words, config.path)...)
		}
	}
	wantOneLine(t, p.Expect(2, "run", "--interface", "eth0:1"), "eth0:1")
	p.Expect(3, "status")
}

// TestConfigurationGone keeps the configuration in force when its file is gone.
func TestConfigurationGone(t *testing.T) {
	n := newServer(t)
	p := harness.On(t, n.Server.Host)
	config := newConfig(t, "mode: observe\n")
	d := p.Start("--config", config.path)
	harness.Must(t, os.Remove(config.path))
	d.Reload()
	d.WaitLog(1, "level=ERROR", config.path)
	if s := p.Status(); s.Config.Error == nil || s.Mode != "observe" {
		t.Errorf("mode %s, error %s", s.Mode, deref(s.Config.Error))
	}
	d.Stop(unix.SIGTERM)
}

func deref(s *string) string {
	if s == nil {
		return "nothing"
	}
	return *s
}
