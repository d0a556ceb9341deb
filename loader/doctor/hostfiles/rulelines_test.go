// SPDX-License-Identifier: Apache-2.0

package hostfiles

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"replypath/loader/doctor/snapshot"
	"replypath/test/await"
	"replypath/test/testhost"
)

func TestParseRuleLines(t *testing.T) {
	own, own6 := testhost.Prefix("10.4.0.100/32"), testhost.Prefix("2001:db8:4::100/128")
	for _, test := range []struct {
		name  string
		parse func(file, text string) []snapshot.RuleLine
		text  string
		want  []snapshot.RuleLine
	}{
		{"interfaces", parseScript, `auto eth1
iface eth1 inet static
	address 10.4.0.100/24
	post-up ip rule add from 10.4.0.100 table 100 prio 5; ip -6 rule add from 2001:db8:4::100 lookup 100 || true
	up /sbin/ip ru a from 10.4.0.100 dev eth1 lookup replication
	pre-down ip rule del from 10.4.0.100
	# post-up ip rule add from 192.0.2.1 table 100
	up ip route add default via 10.4.0.1 table 100
	up ip rule add fwmark 0x1 table 100 && ip route flush cache
	up ip -6 rule add fwmark 0x1 table 100
`, []snapshot.RuleLine{
			{Line: 4, Text: "ip rule add from 10.4.0.100 table 100 prio 5", Src: own, Table: "100"},
			{Line: 4, Text: "ip -6 rule add from 2001:db8:4::100 lookup 100", Src: own6, Table: "100"},
			{Line: 5, Text: "/sbin/ip ru a from 10.4.0.100 dev eth1 lookup replication", Src: own, IIF: "eth1", Table: "replication"},
			{Line: 9, Text: "ip rule add fwmark 0x1 table 100", Mark: "0x1", Table: "100", Family: unix.AF_INET},
			{Line: 10, Text: "ip -6 rule add fwmark 0x1 table 100", Mark: "0x1", Table: "100", Family: unix.AF_INET6},
		}},
		{"networkd", parseNetworkd, `[Match]
Name=eth1

[RoutingPolicyRule]
From = 10.4.0.100
Table=100
# From=192.0.2.1
[Route]
Gateway=10.4.0.1
[RoutingPolicyRule]
From=10.4.0.100/32
IncomingInterface=eth1
FirewallMark=1/3
[RoutingPolicyRule]
FirewallMark=1
[RoutingPolicyRule]
FirewallMark=2
Family=ipv6
[RoutingPolicyRule]
Family=both
FirewallMark=3
[RoutingPolicyRule]
From=2001:db8:4::100
Family=ipv6
[RoutingPolicyRule]
FirewallMark=4
To=2001:db8:9::/64
[RoutingPolicyRule]
Family=both
FirewallMark=5
To=10.9.0.0/24
[RoutingPolicyRule]
From=
To=
FirewallMark=6
`, []snapshot.RuleLine{
			{Line: 4, Text: "[RoutingPolicyRule] From=10.4.0.100 Table=100", Src: own, Table: "100"},
			{Line: 10, Text: "[RoutingPolicyRule] From=10.4.0.100/32 IncomingInterface=eth1 FirewallMark=1/3", Src: own, IIF: "eth1", Mark: "1/3"},
			{Line: 14, Text: "[RoutingPolicyRule] FirewallMark=1", Mark: "1", Family: unix.AF_INET},
			{Line: 16, Text: "[RoutingPolicyRule] FirewallMark=2 Family=ipv6", Mark: "2", Family: unix.AF_INET6},
			{Line: 19, Text: "[RoutingPolicyRule] Family=both FirewallMark=3", Mark: "3"},
			{Line: 22, Text: "[RoutingPolicyRule] From=2001:db8:4::100 Family=ipv6", Src: own6},
			{Line: 25, Text: "[RoutingPolicyRule] FirewallMark=4 To=2001:db8:9::/64", Mark: "4", Family: unix.AF_INET6},
			{Line: 28, Text: "[RoutingPolicyRule] Family=both FirewallMark=5 To=10.9.0.0/24", Mark: "5", Family: unix.AF_INET},
			{Line: 32, Text: "[RoutingPolicyRule] From= To= FirewallMark=6", Mark: "6", Family: unix.AF_INET},
		}},
		{"keyfile", parseKeyfile, `[connection]
id=eth1
[ipv4]
routing-rule1=priority 5 from 10.4.0.100 table 100
[ipv6]
routing-rule1=priority 5 from 2001:db8:4::100 iif eth1 table 100
routing-rule2=priority 5 fwmark 1 table 100
[other]
routing-rule1=priority 5 from 192.0.2.1 table 100
`, []snapshot.RuleLine{
			{Line: 4, Text: "routing-rule1=priority 5 from 10.4.0.100 table 100", Src: own, Table: "100"},
			{Line: 6, Text: "routing-rule1=priority 5 from 2001:db8:4::100 iif eth1 table 100", Src: own6, IIF: "eth1", Table: "100"},
			{Line: 7, Text: "routing-rule2=priority 5 fwmark 1 table 100", Mark: "1", Table: "100", Family: unix.AF_INET6},
		}},
		{"netplan", parseNetplan, `network:
  version: 2
  ethernets:
    eth1:
      addresses: [10.4.0.100/24]
      routing-policy:
        - from: 10.4.0.100
          table: 100
        - {mark: 1, table: 101}
`, []snapshot.RuleLine{
			{Line: 7, Text: "{from: 10.4.0.100, table: 100}", Src: own, Table: "100"},
			{Line: 9, Text: "{mark: 1, table: 101}", Mark: "1", Table: "101"},
		}},
		{"netplan that is none", parseNetplan, "network: [", nil},
		{"rule-eth1", parseRuleFile, "# comment\nfrom 10.4.0.100 table 100\n\niif eth1 from 10.4.0.100/32 lookup 100\n", []snapshot.RuleLine{
			{Line: 2, Text: "from 10.4.0.100 table 100", Src: own, Table: "100"},
			{Line: 4, Text: "iif eth1 from 10.4.0.100/32 lookup 100", Src: own, IIF: "eth1", Table: "100"},
		}},
		{"joined lines", parseScript, "# no \\\nip rule add \\\n  from 10.4.0.100 \\\n  table 100;;\nip rule add table 5 # or \\\nip rule add table 6 ;; esac\nip rule add table 7 \\", []snapshot.RuleLine{
			{Line: 2, Text: "ip rule add from 10.4.0.100 table 100", Src: own, Table: "100"},
			{Line: 5, Text: "ip rule add table 5", Table: "5", Family: unix.AF_INET},
			{Line: 6, Text: "ip rule add table 6", Table: "6", Family: unix.AF_INET},
			{Line: 7, Text: "ip rule add table 7", Table: "7", Family: unix.AF_INET},
		}},
		{"empty", parseScript, "", nil},
		{"words at the end", parseScript, "ip\nip rule\nip rule add\nip rule add from\n", []snapshot.RuleLine{
			{Line: 3, Text: "ip rule add", Family: unix.AF_INET}, {Line: 4, Text: "ip rule add from", Family: unix.AF_INET},
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			for n := range test.want {
				test.want[n].File = "f"
			}
			got := test.parse("f", test.text)
			await.Same(t, "lines", test.want, got, cmp.Comparer(testhost.SamePrefix))
		})
	}
}

func TestRuleFileFamily(t *testing.T) {
	for _, test := range []struct {
		file, text string
		family     int
	}{
		{"/etc/sysconfig/network-scripts/rule-eth1", "fwmark 1 table 100", unix.AF_INET},
		{"/etc/sysconfig/network-scripts/rule6-eth1", "fwmark 1 table 100", unix.AF_INET6},
		{"/etc/sysconfig/network/ifrule-eth1", "ipv4 fwmark 1 table 100", unix.AF_INET},
		{"/etc/sysconfig/network/ifrule-eth1", "ipv6 fwmark 1 table 100", unix.AF_INET6},
		{"/etc/sysconfig/network/ifrule-eth1", "fwmark 1 table 100", 0},
	} {
		found := parseRuleFile(test.file, test.text)
		if len(found) != 1 || found[0].Family != test.family || found[0].Mark != "1" {
			t.Errorf("%s: %s: %+v", test.file, test.text, found)
		}
	}
}
