// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"strings"
	"testing"

	"replypath/test/harness"
	"replypath/test/topology"
)

// contradictions are configurations that contradict the host, which has a tun
// device.
var contradictions = []struct{ name, text, says string }{
	{
		"last-hop without an Ethernet header",
		"interfaces:\n- name: \"eth*\"\n- name: tun0\n  next_hop: last-hop\n",
		":4: interfaces[1].next_hop: interface tun0 has no ethernet header",
	},
	{
		"globs that match the same interface",
		"interfaces:\n- name: \"eth*\"\n  mode: observe\n- name: \"?th1\"\n",
		`:4: interfaces[1].mode: "?th1" contradicts "eth*" on line 2, as both match interface eth1`,
	},
}

// TestContradiction: what cannot be followed is refused with file, line and key
// before anything is attached, and by a running daemon with nothing changed.
func TestContradiction(t *testing.T) {
	n := newServer(t)
	p := harness.On(t, n.Server.Host)
	harness.Shell(t, n.Server.Host, "ip tuntap add dev tun0 mode tun; ip address add 10.99.0.1/24 dev tun0; ip link set tun0 up")
	config := newConfig(t, "")
	before := harness.TakeSnapshot(t, n.Server.Host, "eth0", "eth1", "tun0")
	for _, c := range contradictions {
		t.Run(c.name, func(t *testing.T) {
			config.write(c.text)
			for _, command := range []string{"check", "run"} {
				wantOneLine(t, p.In(t).Expect(2, command, "--config", config.path), config.path+c.says)
			}
		})
	}
	if diff := before.Diff(harness.TakeSnapshot(t, n.Server.Host, "eth0", "eth1", "tun0")); diff != "" {
		t.Errorf("what a refused start leaves (-before +after):\n%s", diff)
	}

	config.write("interfaces: [{name: 'eth*'}]\n")
	d := p.Start("--config", config.path)
	for _, c := range contradictions {
		config.write(c.text)
		d.Reload()
		d.WaitLog(1, "level=ERROR", strings.ReplaceAll(config.path+c.says, `"`, `\"`))
		if s := p.Status(); s.Config.Error == nil || !strings.Contains(*s.Config.Error, c.says) {
			t.Errorf("%s: the status says %s", c.name, deref(s.Config.Error))
		}
		for _, f := range n.Families() {
			harness.WantBy(t, n.Server, conversation(t, n, harness.TCP, f), true)
		}
	}
}

// TestContradictionAppears: a device that comes later is served all the same, and
// warned of.
func TestContradictionAppears(t *testing.T) {
	n := newServer(t)
	p := harness.On(t, n.Server.Host)
	config := newConfig(t, contradictions[0].text)
	r := p.Expect(0, "check", "--config", config.path)
	if !strings.Contains(r.Stdout, "interface tun0 is not there yet") {
		t.Errorf("no warning: %s", r)
	}
	d := p.Start("--config", config.path)
	harness.Shell(t, n.Server.Host, "ip tuntap add dev tun0 mode tun; ip address add 10.99.0.1/24 dev tun0; ip link set tun0 up")
	d.WaitLog(1, "level=WARN", "interface tun0 has no ethernet header: next_hop last-hop is served as auto there")
	harness.WantBy(t, n.Server, conversation(t, n, harness.TCP, topology.IPv4), true)
	if tun := p.Status().Interface("tun0"); !tun.Attached {
		t.Errorf("tun0 is not served: %+v", tun)
	}
}
