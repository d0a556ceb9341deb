// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"testing"

	"replypath/test/await"
	"replypath/test/host"
	"replypath/test/server"
	"replypath/test/traffic"
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
	n, _ := server.NewExact(t)
	before := snapshot(t, n)
	for _, remains := range remains {
		host.Shell(t, n.Server.Host, remains.leave)
		if before.Diff(snapshot(t, n)) == "" {
			t.Errorf("%s is not seen", remains.name)
		}
		host.Shell(t, n.Server.Host, remains.remove)
		await.Same(t, remains.name+" is taken away", before, snapshot(t, n))
	}
	for _, f := range n.Families() {
		traffic.Ask(t, conversation(t, n, traffic.TCP, f)) // which has both sides ask for each other
	}
	host.Shell(t, n.Server.Host, "ip neighbour flush dev eth1; ip -6 neighbour flush dev eth1\n"+
		"ip neighbour add 10.2.0.78 dev eth1 lladdr 02:00:00:00:ff:03 nud stale")
	await.Same(t, "what the kernel does by itself is seen", before, snapshot(t, n))
	t.Logf("%d kinds of remains, each seen, 0 differences without them", len(remains))
}
