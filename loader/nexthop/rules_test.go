// SPDX-License-Identifier: Apache-2.0

package nexthop

import (
	"fmt"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"replypath/test/await"
)

// TestRulesThatCount has routes by a gateway in a table of its own: by which rules they count for unmarked replies, and for
// which of them.
func TestRulesThatCount(t *testing.T) {
	p := newPair(t)
	ip(t, p.server, `
route add default via 10.1.0.9 table 200
route add 10.9.0.0/16 via 10.1.0.8 table 200
route add default via 10.1.0.7 table 300
`)
	ip(t, p.server, `-6 route add default via 2001:db8:1::9 dev eth0 table 200
route add 2001:db8:9::/48 via 2001:db8:1::8 dev eth0 table 200
route add default via 2001:db8:1::7 dev eth0 table 300
`)
	const all, none = "9: everything, 8: NET", ""
	for _, test := range []struct{ rules, want string }{
		{"lookup 200", all},
		{"from OWN lookup 200", all},
		{"from LINK lookup 200", all},
		{"iif lo lookup 200", all},
		{"oif eth0 lookup 200", all},
		{"fwmark 0/5 lookup 200", all},
		{"not fwmark 5 lookup 200", all},
		{"not fwmark 5 from OTHER lookup 200", all},
		{"not from OTHER lookup 200", all},
		{"not iif eth1 lookup 200", all},
		{"suppress_ifgroup 7 lookup 200", all},
		{"to NET lookup 200", "9: NET, 8: NET"},
		{"to PART lookup 200", "9: PART, 8: PART"},
		{"to FAR lookup 200", "9: FAR, 8: "},
		{"suppress_prefixlength 0 lookup 200", "8: NET"},
		{"fwmark 5 lookup 200", none},
		{"fwmark 0x100/0xff00 lookup 200", none},
		{"from OTHER lookup 200", none},
		{"not from OWN lookup 200", none},
		{"not to FAR lookup 200", none},
		{"iif eth0 lookup 200", none},
		{"oif eth1 lookup 200", none},
		{"suppress_ifgroup 0 lookup 200", none},
		{"uidrange 33-33 lookup 200", none},
		{"ipproto tcp lookup 200", none},
		{"dport 80 lookup 200", none},
		{"sport 80 lookup 200", none},
		{"tos 0x10 lookup 200", none},
		{"dscp 8 lookup 200", none},
		{"not fwmark 5 goto 60, lookup 200, table main", none},
		{"fwmark 5 goto 60, lookup 200, table main", all},
		{"not fwmark 5 prohibit, lookup 200", none},
		{"from OTHER prohibit, lookup 200", all},
		{"fwmark 5 lookup 200, from OWN lookup 200", all},
	} {
		for family, words := range map[string]*strings.Replacer{
			"-4": strings.NewReplacer("OWN", "10.1.0.100", "LINK", "10.1.0.0/24", "OTHER", "10.7.0.0/16", "NET", "10.9.0.0/16",
				"PART", "10.9.1.0/24", "FAR", "10.20.0.0/16"),
			"-6": strings.NewReplacer("OWN", "2001:db8:1::100", "LINK", "2001:db8:1::/64", "OTHER", "2001:db8:7::/64",
				"NET", "2001:db8:9::/48", "PART", "2001:db8:9:1::/64", "FAR", "2001:db8:20::/48"),
		} {
			for n, rule := range strings.Split(words.Replace(test.rules), ", ") {
				add := []string{family, "rule", "add", "prio", fmt.Sprint(40 + 10*n)}
				if out, err := p.server.Command(t.Context(), "ip", append(add, strings.Fields(rule)...)...).CombinedOutput(); err != nil {
					if strings.Contains(rule, "dscp") { // since 6.14, and iproute2 6.16
						t.Logf("%s: %s", rule, out)
						continue
					}
					t.Fatalf("%s: %s", rule, out)
				}
			}
			await.Same(t, family+" "+words.Replace(test.rules)+": gateways", words.Replace(test.want), p.counted(t, family))
			for n := range strings.Split(test.rules, ", ") {
				_ = p.server.Command(t.Context(), "ip", family, "rule", "del", "prio", fmt.Sprint(40+10*n)).Run()
			}
		}
	}
	managed := p.manage(t)
	managed[0].Table = 300 // as a port of a VRF, which not every kernel has
	await.Must(t, p.server.Do(func() error {
		gateways, err := Gateways(p.server.Netlink(), managed)
		check(t, gateways, bare(p.eth0.Index, "10.1.0.7", 4), bare(p.eth0.Index, "2001:db8:1::7", 6))
		return err
	}))
}

// counted says what the gateways of a family lead to, those of the highest address first.
func (p *pair) counted(t *testing.T, family string) string {
	t.Helper()
	number := map[string]int{"-4": unix.AF_INET, "-6": unix.AF_INET6}[family]
	var all []string
	for _, g := range p.gateways(t) {
		reach := g.Reach(number)
		if g.IPv4 != (number == unix.AF_INET) {
			continue
		}
		var networks []string
		for _, n := range reach.Networks {
			networks = append(networks, n.String())
		}
		if reach.Everything {
			networks = []string{"everything"}
		}
		text := g.Address.String()
		all = append([]string{text[len(text)-1:] + ": " + strings.Join(networks, " ")}, all...)
	}
	return strings.Join(all, ", ")
}

// TestRuleOfOneAddress: a gateway that the rule for one of two own addresses leads to takes no replies of the other, but what
// came through it.
func TestRuleOfOneAddress(t *testing.T) {
	p := newPair(t)
	ip(t, p.server, `
addr add 10.1.0.101/24 dev eth0
route add default via 10.1.0.9 table 200
route add 10.9.0.0/16 via 10.1.0.9 table 201
rule add from 10.1.0.100 table 200
rule add table 201
`)
	gateways := p.gateways(t)
	check(t, gateways, bare(p.eth0.Index, "10.1.0.9", 4))
	await.Same(t, "reach", leads("10.9.0.0/16"), gateways[0].Reach4)
	ip(t, p.server, "rule add from 10.1.0.101 table 200")
	await.Same(t, "reach", Reach{Everything: true}, p.gateways(t)[0].Reach4)
}
