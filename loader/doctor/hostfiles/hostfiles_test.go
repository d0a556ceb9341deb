// SPDX-License-Identifier: Apache-2.0

package hostfiles

import (
	"slices"
	"testing"

	"replypath/test/await"
	"replypath/test/testhost"
)

// TestFiles reads each kind of file where its owner keeps it.
func TestFiles(t *testing.T) {
	const command = "ip rule add from 10.4.0.100 table 100\n"
	root := t.TempDir()
	testhost.WriteFiles(t, root, map[string]string{
		"/etc/network/interfaces":                                      command,
		"/etc/network/interfaces.d/eth1":                               command,
		"/etc/network/if-up.d/rules":                                   "#!/bin/sh\n" + command,
		"/etc/rc.local":                                                command,
		"/etc/NetworkManager/dispatcher.d/50-rules":                    command,
		"/etc/networkd-dispatcher/routable.d/rules":                    command,
		"/etc/NetworkManager/system-connections/a.nmconnection":        "[ipv4]\nrouting-rule1=from 10.4.0.100 table 100\n",
		"/etc/systemd/network/10-eth1.network":                         "[RoutingPolicyRule]\nFrom=10.4.0.100\n",
		"/etc/systemd/network/10-eth1.network.d/a.conf":                "[RoutingPolicyRule]\nFrom=10.4.0.100\n",
		"/usr/lib/systemd/network/10-eth1.network":                     "[RoutingPolicyRule]\nFrom=10.4.0.100\n", // that of /etc is read
		"/usr/lib/systemd/network/20-eth2.network":                     "[RoutingPolicyRule]\nFrom=10.4.0.100\n",
		"/etc/netplan/01-eth1.yaml":                                    "routing-policy: [{from: 10.4.0.100}]\n",
		"/etc/sysconfig/network-scripts/rule-eth1":                     "from 10.4.0.100 table 100\n",
		"/etc/sysconfig/network-scripts/rule6-eth1":                    "from 2001:db8:4::100 table 100\n",
		"/etc/sysconfig/network/ifrule-eth1":                           "ipv4 from 10.4.0.100 table 100\n",
		"/etc/systemd/network/10-eth1.link":                            "[RoutingPolicyRule]\nFrom=10.4.0.100\n", // no .network file
		"/etc/NetworkManager/system-connections/a.nmconnection.d/else": command,                                  // in a directory
		"/etc/firewalld/firewalld.conf":                                "# IPv6_rpfilter=no\nIPv6_rpfilter=strict\n",
	})
	found, err := RuleLines(root)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, l := range found {
		if !l.Src.IsValid() || l.Owner == "" {
			t.Errorf("%s: nothing was read: %+v", l.Where(), l)
		}
		got = append(got, l.Where())
	}
	want := []string{
		"/etc/NetworkManager/dispatcher.d/50-rules:1",
		"/etc/NetworkManager/system-connections/a.nmconnection:2",
		"/etc/netplan/01-eth1.yaml:1",
		"/etc/network/if-up.d/rules:2",
		"/etc/network/interfaces.d/eth1:1",
		"/etc/network/interfaces:1",
		"/etc/networkd-dispatcher/routable.d/rules:1",
		"/etc/rc.local:1",
		"/etc/sysconfig/network-scripts/rule-eth1:1",
		"/etc/sysconfig/network-scripts/rule6-eth1:1",
		"/etc/sysconfig/network/ifrule-eth1:1",
		"/etc/systemd/network/10-eth1.network.d/a.conf:1",
		"/etc/systemd/network/10-eth1.network:1",
		"/usr/lib/systemd/network/20-eth2.network:1",
	}
	slices.Sort(got)
	await.Same(t, "files", want, got)
	if f, err := Firewalld(root); err != nil || f == nil || f.IPv6RPFilter != "strict" || !f.IsStrict() {
		t.Errorf("firewalld: %+v", f)
	}
}

// TestNoFiles: a host that has none of them.
func TestNoFiles(t *testing.T) {
	root := t.TempDir()
	if found, err := RuleLines(root); err != nil || found != nil {
		t.Errorf("%v, %+v", err, found)
	}
	if f, err := Firewalld(root); err != nil || f != nil {
		t.Errorf("%v, %+v", err, f)
	}
}

// firewalld is strict where its file does not say otherwise.
func TestFirewalldDefault(t *testing.T) {
	root := t.TempDir()
	testhost.WriteFiles(t, root, map[string]string{firewalldFile: "DefaultZone=public\n"})
	if f, err := Firewalld(root); err != nil || f == nil || !f.IsStrict() || f.Enabled {
		t.Errorf("%v, %+v", err, f)
	}
	testhost.WriteFiles(t, root, map[string]string{firewalldEnabled: ""})
	if f, err := Firewalld(root); err != nil || f == nil || !f.Enabled {
		t.Errorf("enabled: %v, %+v", err, f)
	}
}
