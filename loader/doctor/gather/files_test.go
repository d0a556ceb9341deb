// SPDX-License-Identifier: Apache-2.0

package gather

import (
	"net/netip"
	"testing"

	"replypath/loader/doctor/snapshot"
	"replypath/test/await"
	"replypath/test/testhost"
)

// TestFiles finds a source in each kind of file where its owner keeps it, as that writes it.
func TestFiles(t *testing.T) {
	root := t.TempDir()
	testhost.WriteFiles(t, root, map[string]string{
		"/etc/network/interfaces": "iface eth1 inet static\n\taddress 10.4.0.100/24\n" +
			"\tup ip rule add from 10.4.0.100 table 100; ip -6 rule add from 2001:db8:4::100 table 100\n" +
			"\t# up ip rule add from 10.4.0.100\n",
		"/etc/rc.local":                                         "ip rule add prio 5 from 10.4.0.0/24 table 100\n",
		"/etc/systemd/system/rules.service":                     "ExecStart=ip rule add from 10.4.0.0/24 table 100\n",
		"/etc/NetworkManager/system-connections/a.nmconnection": "[ipv4]\nrouting-rule1=priority 5 from 10.4.0.100 table 100\n",
		"/etc/systemd/network/10-eth1.network":                  "[RoutingPolicyRule]\nFrom = 10.4.0.100/32\nFrom=all\n",
		"/etc/systemd/network/10-eth1.link":                     "From=10.4.0.100\n", // no .network file
		"/etc/netplan/01-eth1.yaml":                             "routing-policy: [{from: \"2001:db8:4::100\"}]\n",
		"/etc/sysconfig/network-scripts/rule6-eth1":             "from 2001:db8:4::100 table 100\n",
		"/etc/sysconfig/network/ifrule-eth1":                    "ipv4 from 10.4.0.100 table 100\n",
		"/etc/network/interfaces.d/directory/else":              "ip rule add from 10.4.0.100\n",
	})
	g := gatherer{Options: Options{Root: root}, host: &snapshot.Host{}}
	await.Must(t, g.files())
	for source, want := range map[string][]string{
		"10.4.0.100/32": {"/etc/network/interfaces:3", "/etc/systemd/network/10-eth1.network:2",
			"/etc/NetworkManager/system-connections/a.nmconnection:2", "/etc/sysconfig/network/ifrule-eth1:1"},
		"2001:db8:4::100/128": {"/etc/network/interfaces:3", "/etc/netplan/01-eth1.yaml:1",
			"/etc/sysconfig/network-scripts/rule6-eth1:1"},
		"10.4.0.0/24": {"/etc/rc.local:1", "/etc/systemd/system/rules.service:1"},
	} {
		p := netip.MustParsePrefix(source)
		await.Same(t, source, want, g.host.Written[p])
		delete(g.host.Written, p)
	}
	if len(g.host.Written) > 0 {
		t.Errorf("and %v", g.host.Written)
	}
}
