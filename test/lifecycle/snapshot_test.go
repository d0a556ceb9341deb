// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"testing"

	"replypath/test/harness"
)

// remains are what a product like this could leave on a host, with how it is taken away.
var remains = []struct{ name, leave, remove string }{
	{"a qdisc", "tc qdisc add dev eth0 clsact", "tc qdisc del dev eth0 clsact"},
	{"a link", "ip link add left type veth peer name right", "ip link del left"},
	{"an address", "ip address add 192.0.2.1/32 dev eth0", "ip address del 192.0.2.1/32 dev eth0"},
	{"a route", "ip route add 192.0.2.0/24 via 10.2.0.1", "ip route del 192.0.2.0/24"},
	{"an ipv6 route", "ip route add 2001:db8:ff::/64 dev eth1", "ip route del 2001:db8:ff::/64 dev eth1"},
	{"a rule", "ip rule add from 192.0.2.0/24 lookup main", "ip rule del from 192.0.2.0/24 lookup main"},
	{"a sysctl", "sysctl -q -w net.ipv4.conf.eth1.rp_filter=1", "sysctl -q -w net.ipv4.conf.eth1.rp_filter=0"},
	{"a fixed neighbour", fixed("nud permanent"), unfixed},
	{"a neighbour that was learned by somebody", fixed("nud reachable extern_learn"), unfixed},
	{"a neighbour of ipv6", "ip neighbour add 2001:db8:2::77 dev eth1 lladdr 02:00:00:00:ff:02 nud permanent",
		"ip neighbour del 2001:db8:2::77 dev eth1"},
	{"a proxy", "ip neighbour add proxy 192.0.2.1 dev eth1", "ip neighbour del proxy 192.0.2.1 dev eth1"},
}

func fixed(how string) string {
	return "ip neighbour add 10.2.0.77 dev eth1 lladdr 02:00:00:00:ff:01 " + how
}

const unfixed = "ip neighbour del 10.2.0.77 dev eth1"

// TestSnapshot shows that what other tests compare hosts by sees each of these, and
// nothing of what the kernel makes and drops by itself.
func TestSnapshot(t *testing.T) {
	n := newServer(t)
	before := snapshot(t, n)
	for _, remains := range remains {
		harness.Shell(t, n.Server.Host, remains.leave)
		if before.Diff(snapshot(t, n)) == "" {
			t.Errorf("%s is not seen", remains.name)
		}
		harness.Shell(t, n.Server.Host, remains.remove)
		if diff := before.Diff(snapshot(t, n)); diff != "" {
			t.Errorf("%s is taken away (-before +after):\n%s", remains.name, diff)
		}
	}
	for _, f := range n.Families() {
		harness.Ask(t, conversation(t, n, harness.TCP, f)) // which has both sides ask for each other
	}
	harness.Shell(t, n.Server.Host, "ip neighbour flush dev eth1; ip -6 neighbour flush dev eth1\n"+
		"ip neighbour add 10.2.0.78 dev eth1 lladdr 02:00:00:00:ff:03 nud stale")
	if diff := before.Diff(snapshot(t, n)); diff != "" {
		t.Errorf("what the kernel does by itself is seen (-before +after):\n%s", diff)
	}
	t.Logf("%d kinds of remains, each seen, 0 differences without them", len(remains))
}

// TestSnapshotOfControlGroups shows the same of the programs that repair source
// addresses, which stand in a control group that all hosts of the machine share: they
// are seen on their own host, and on no other.
func TestSnapshotOfControlGroups(t *testing.T) {
	n := newServer(t)
	other, empty := harness.TakeSnapshot(t, n.Client), snapshot(t, n)
	p := harness.On(t, n.Server.Host)
	without := "fallback_route: false\nmanage_rp_filter: false\n"
	d := p.Start("--config", newConfig(t, without+"repair_udp_source: false\n").path)
	before := snapshot(t, n)
	d.Kill()
	p.Start("--config", newConfig(t, without+"repair_udp_source: true\n").path)
	seen := 0
	for what := range snapshot(t, n) {
		if _, was := before[what]; !was {
			t.Logf("seen: %s", what)
			seen++
		}
	}
	if seen != 2 { // for each family
		t.Errorf("%d programs are seen", seen)
	}
	if diff := other.Diff(harness.TakeSnapshot(t, n.Client)); diff != "" {
		t.Errorf("another host has changed (-before +after):\n%s", diff)
	}
	p.Expect(0, "detach", "--stop")
	if diff := empty.Diff(snapshot(t, n)); diff != "" {
		t.Errorf("host after detach (-before +after):\n%s", diff)
	}
}
