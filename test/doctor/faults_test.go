// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/google/go-cmp/cmp"

	"replypath/test/await"
	"replypath/test/host"
	"replypath/test/product"
	"replypath/test/server"
	"replypath/test/topology"
)

// fault is something that is wrong about a host.
type fault struct {
	name string
	// script brings it about.
	script string
	// What doctor says of it: the check, severity, interface and words of one finding.
	check, severity, device string
	words                   []string
	// todo is what mends it, a sysctl, else the command that it shows, which only reads.
	todo  string
	owner string
}

// faults of a server with two interfaces.
var faults = []fault{
	{"strict rp_filter by all", "sysctl -qw net.ipv4.conf.all.rp_filter=1",
		"rp-filter", "warning", "eth1", []string{"rp_filter of eth1 is strict (all 1, device 0)"}, "sysctl -w net.ipv4.conf.eth1.rp_filter=2", ""},
	{"nftables looks at the way back", "nft add table inet t; nft add chain inet t pre '{ type filter hook prerouting priority 0; }'; nft add rule inet t pre fib saddr . iif oif missing drop",
		"reverse-path-rules", "error", "", []string{"inet t pre", "drops"}, "nft --handle list chain inet t pre", ""},
	{"unreachable default route", "ip route replace unreachable default; ip route add default via 10.1.0.1 metric 9",
		"default-route", "error", "", []string{"ipv4: the default route is unreachable"}, "ip route show table main", ""},
	// The kernel takes such a gateway only while it is nobody's.
	{"a gateway that is this host", "ip route add 10.77.0.0/24 via 10.2.0.5 dev eth1; ip address add 10.2.0.5/24 dev eth1",
		"own-gateway", "error", "eth1", []string{"10.77.0.0/24 via 10.2.0.5", "this host itself"}, "ip route show table main", ""},
	{"a gateway that is silent", "ip route add default via 10.2.0.77 metric 9; ip -6 route add default via 2001:db8:2::77 metric 2000",
		"gateway", "error", "eth1", []string{"10.2.0.77 does not answer ", "arp"}, "ip neigh show 10.2.0.77 dev eth1", ""},
	{"an ipv6 gateway that is silent", "ip -6 route add default via 2001:db8:2::77 metric 2000; ip -6 route add default via 2001:db8:2::1 table 9",
		"gateway", "error", "eth1", []string{"2001:db8:2::77 does not answer ", "neighbour discovery"}, "ip neigh show 2001:db8:2::77 dev eth1", ""},
	{"a gateway of some peers that is silent", "ip rule add lookup 9; ip route add 10.77.0.0/24 via 10.2.0.77 table 9",
		"gateway", "warning", "eth1", []string{"10.2.0.77 does not answer ", "arp"}, "ip neigh show 10.2.0.77 dev eth1", ""},
	{"a gateway that has gone", "ip route add default via 10.2.0.77 metric 9; ip neigh replace 10.2.0.77 lladdr 02:00:00:00:77:77 nud stale dev eth1",
		"gateway", "error", "eth1", []string{"10.2.0.77 does not answer "}, "ip neigh show 10.2.0.77 dev eth1", ""},
	{"two interfaces in one network: arp_ignore", "ip address add 10.1.0.7/24 dev eth1",
		"arp-ignore", "warning", "eth0", []string{"10.1.0.7 of eth1"}, "sysctl net.ipv4.conf.all.arp_ignore net.ipv4.conf.eth0.arp_ignore", ""},
	{"a macvlan on a nic without an address", "ip link add nic type veth peer name far; ip link set nic up; ip link add mv0 link nic type macvlan mode bridge; ip link set mv0 up; ip address add 10.7.0.7/24 dev mv0",
		"arp-ignore", "warning", "nic", []string{"10.7.0.7 of mv0"}, "sysctl net.ipv4.conf.all.arp_ignore net.ipv4.conf.nic.arp_ignore", ""},
	{"a virtual address", "ip address add 10.2.0.9/32 dev lo",
		"arp-ignore", "warning", "eth1", []string{"all 0", "device 0", "effective 0", "10.2.0.9 of lo"}, "sysctl net.ipv4.conf.all.arp_ignore net.ipv4.conf.eth1.arp_ignore", ""},
	{"a filter of others at egress", "tc qdisc add dev eth1 clsact; tc filter add dev eth1 egress prio 7 protocol all u32 match u32 0 0 classid 1:1",
		"tc-programs", "note", "eth1", []string{"filter u32 of priority 7 at egress"}, "tc filter show dev eth1 egress", ""},
	{"rules by the outgoing interface", `nft add table inet t; nft add chain inet t out '{ type filter hook output priority 0; }'; nft add rule inet t out oifname eth1 drop`,
		"outgoing-interface-rules", "note", "", []string{"inet t out", "eth1"}, "nft --handle list chain inet t out", ""},
	{"more rules by the outgoing interface", `iptables -A OUTPUT -o eth1 -j DROP; iptables -A OUTPUT -o lo -j ACCEPT; iptables -A OUTPUT -o eth+ -p tcp -j DROP`,
		"outgoing-interface-rules", "note", "", []string{"ip filter OUTPUT", "eth*", "eth1"}, "nft --handle list chain ip filter OUTPUT", ""},
}

// TestFaults brings each fault about on a host that has none, and has doctor find it. A sysctl that stands beside it is
// typed, and mends it. What somebody made is only looked at: the command that stands beside it works, and changes
// nothing.
func TestFaults(t *testing.T) {
	for _, f := range faults {
		t.Run(f.name, func(t *testing.T) {
			t.Parallel()
			n, p := server.New(t)
			if found := p.Doctor(0).Of(f.check, "").With(f.severity, f.words...); len(found) > 0 {
				t.Fatalf("found without its cause: %+v", found)
			}
			host.Shell(t, n.Server.Host, f.script)
			before := host.Made(t, n.Server.Host)
			found := f.wantFound(t, p)
			if found.Fix == nil {
				host.Shell(t, n.Server.Host, *found.Inspect)
				if diff := cmp.Diff(before, host.Made(t, n.Server.Host)); diff != "" {
					t.Errorf("%s (-before +after):\n%s", *found.Inspect, diff)
				}
				return
			}
			host.Shell(t, n.Server.Host, *found.Fix)
			if found := p.Examine().Of(f.check, f.device).With(f.severity, f.words...); len(found) > 0 {
				t.Errorf("found after %s: %+v", f.todo, found)
			}
		})
	}
}

// wantSeen wants a finding without a fix, and a command that works.
func wantSeen(t *testing.T, n *topology.TwoNIC, f product.Finding, inspect string) {
	t.Helper()
	if f.Fix != nil || product.OrEmpty(f.Inspect) != inspect {
		t.Errorf("fix %q and inspect %q, not %q alone", product.OrEmpty(f.Fix), product.OrEmpty(f.Inspect), inspect)
	}
	host.Shell(t, n.Server.Host, inspect)
}

// wantFound returns the finding, with the sysctl that mends it or a command to look by.
func (f *fault) wantFound(t *testing.T, p *product.Product) product.Finding {
	t.Helper()
	code := 0
	if f.severity == "error" {
		code = 3
	}
	found := onlyOne(t, p.Doctor(code), f.check, f.device, f.severity, f.words...)
	todo, isSysctl := found.Inspect, strings.HasPrefix(f.todo, "sysctl -w ")
	if isSysctl {
		todo = found.Fix
	}
	command, _, _ := strings.Cut(product.OrEmpty(todo), "  # ")
	if command != f.todo || isSysctl != (found.Fix != nil) || product.OrEmpty(found.Owner) != f.owner {
		t.Fatalf("not %q of %q: %+v", f.todo, f.owner, found)
	}
	return found
}

// TestXDP names a program that sees frames before replypath does.
func TestXDP(t *testing.T) {
	n, p := server.New(t)
	onlyOne(t, p.Doctor(0), "xdp", "", "ok")
	const xdpPass = 2
	program := await.Must1[*ebpf.Program](t)(ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "theirs", Type: ebpf.XDP, License: "GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, xdpPass), asm.Return()},
	}))
	defer program.Close()
	await.Must(t, n.Server.Do(func() error {
		l, err := link.AttachXDP(link.XDPOptions{Program: program, Interface: n.Server.Eth1.Index})
		if err == nil {
			t.Cleanup(func() { l.Close() })
		}
		return err
	}))
	wantSeen(t, n, onlyOne(t, p.Doctor(0), "xdp", "eth1", "note"), "ip -details link show dev eth1")
}
