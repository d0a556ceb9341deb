package doctor

import (
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"replypath/test/harness"
	"replypath/test/topology"
)

// fault is something that is wrong about a host.
type fault struct {
	name string
	// script brings it about.
	script string
	// What doctor says of it: the check, severity, interface and words of one
	// finding.
	check, severity, device string
	words                   []string
	// fix is the command that it shows, to be typed as it stands, but for handles
	// and what follows them.
	fix string
}

// faults of a server with two interfaces.
var faults = []fault{
	{"strict rp_filter by all", "sysctl -qw net.ipv4.conf.all.rp_filter=1",
		"rp-filter", "error", "eth1", []string{"all 1", "device 0", "effective 1"}, "sysctl -w net.ipv4.conf.eth1.rp_filter=2"},
	{"nftables looks at the way back", "nft add table inet t; nft add chain inet t pre '{ type filter hook prerouting priority 0; }'; nft add rule inet t pre fib saddr . iif oif missing drop",
		"reverse-path-rules", "error", "", []string{"inet t pre", "drops"}, "nft delete rule inet t pre handle "},
	{"no default route, the gateway is in another table", "ip route del default; ip route add default via 10.1.0.1 table 100",
		"default-route", "error", "", []string{"ipv4: no default route"}, "ip route add default via 10.1.0.1 dev eth0"},
	{"no ipv6 default route", "ip -6 route del default; ping -q -c 1 2001:db8:1::1",
		"default-route", "error", "", []string{"ipv6: no default route"}, "ip -6 route add default via 2001:db8:1::1 dev eth0"},
	{"unreachable default route", "ip route replace unreachable default; ip route add default via 10.1.0.1 metric 9",
		"default-route", "error", "", []string{"ipv4: the default route is unreachable"}, "ip route del unreachable default"},
	{"blackhole", "ip -6 route add blackhole 2001:db8:9::/64",
		"refusing-routes", "warning", "", []string{"blackhole 2001:db8:9::/64"}, "ip -6 route del blackhole 2001:db8:9::/64 metric 1024"},
	{"prohibit for some peers", "ip route add prohibit 10.9.0.0/24 table 7",
		"refusing-routes", "warning", "", []string{"prohibit 10.9.0.0/24 table 7"}, "ip route del prohibit 10.9.0.0/24 table 7"},
	{"a rule that refuses", "ip rule add to 10.9.0.0/24 unreachable priority 5",
		"refusing-routes", "warning", "", []string{"rule 5:", "unreachable"}, "ip rule del priority 5 from all to 10.9.0.0/24 unreachable"},
	{"a default route without a gateway", "ip route add default dev eth1 metric 5; ip route add default via 10.2.0.1 table 9",
		"route-without-gateway", "warning", "eth1", []string{"default dev eth1", "arp"}, "ip route replace default via 10.2.0.1 dev eth1 metric 5"},
	{"one hop without a gateway", "ip route del default; ip route add default metric 5 nexthop dev eth1 weight 2 nexthop via 10.1.0.1 dev eth0; ip route add default via 10.2.0.1 table 9",
		"route-without-gateway", "warning", "eth1", []string{"default dev eth1", "arp"},
		"ip route replace default metric 5 nexthop via 10.1.0.1 dev eth0 nexthop via 10.2.0.1 dev eth1"},
	{"a default route without a gateway, and none known", "ip route add default dev eth1 metric 5",
		"route-without-gateway", "warning", "eth1", []string{"default dev eth1", "arp"}, "ip route del default dev eth1 metric 5"},
	{"one hop is this host", "ip route add 10.77.0.0/24 nexthop via 10.2.0.5 dev eth1 nexthop via 10.1.0.1 dev eth0 weight 3; ip address add 10.2.0.5/24 dev eth1",
		"own-gateway", "error", "eth1", []string{"10.77.0.0/24 via 10.2.0.5", "this host itself"}, "ip route replace 10.77.0.0/24 nexthop via 10.1.0.1 dev eth0 weight 3"},
	{"one ipv6 hop is this host", "ip -6 route add 2001:db8:77::/64 nexthop via 2001:db8:2::5 dev eth1 nexthop via 2001:db8:1::1 dev eth0; ip address add 2001:db8:2::5/64 dev eth1 nodad",
		"own-gateway", "error", "eth1", []string{"2001:db8:77::/64 via 2001:db8:2::5", "this host itself"}, "ip -6 route replace 2001:db8:77::/64 metric 1024 nexthop via 2001:db8:1::1 dev eth0"},
	// The kernel takes such a gateway only while it is nobody's.
	{"a gateway that is this host", "ip route add 10.77.0.0/24 via 10.2.0.5 dev eth1; ip address add 10.2.0.5/24 dev eth1",
		"own-gateway", "error", "eth1", []string{"10.77.0.0/24 via 10.2.0.5", "this host itself"}, "ip route del 10.77.0.0/24 via 10.2.0.5 dev eth1"},
	{"a gateway that is silent", "ip route add default via 10.2.0.77 metric 9; ip -6 route add default via 2001:db8:2::77 metric 2000",
		"gateway", "error", "eth1", []string{"10.2.0.77 is failed", "arp"}, "ip route del default via 10.2.0.77 dev eth1 metric 9"},
	{"an ipv6 gateway that is silent", "ip -6 route add default via 2001:db8:2::77 metric 2000; ip -6 route add default via 2001:db8:2::1 table 9",
		"gateway", "error", "eth1", []string{"2001:db8:2::77 is failed", "neighbour discovery"}, "ip -6 route replace default via 2001:db8:2::1 dev eth1 metric 2000"},
	{"a gateway of some peers that is silent", "ip route add 10.77.0.0/24 via 10.2.0.77 table 9",
		"gateway", "error", "eth1", []string{"10.2.0.77 is failed", "arp"}, "ip route flush table all via 10.2.0.77 dev eth1"},
	{"a gateway that has gone", "ip route add default via 10.2.0.77 metric 9; ip neigh replace 10.2.0.77 lladdr 02:00:00:00:77:77 nud stale dev eth1",
		"gateway", "error", "eth1", []string{"10.2.0.77 is failed"}, "ip route del default via 10.2.0.77 dev eth1 metric 9"},
	{"two interfaces in one network: arp_ignore", "ip address add 10.1.0.7/24 dev eth1",
		"arp-ignore", "warning", "eth0", []string{"10.1.0.7 of eth1"}, "sysctl -w net.ipv4.conf.eth0.arp_ignore=1"},
	{"two interfaces in one network: arp_announce", "ip address add 10.1.0.7/24 dev eth1",
		"arp-announce", "warning", "eth1", []string{"10.1.0.100 of eth0"}, "sysctl -w net.ipv4.conf.eth1.arp_announce=2"},
	{"a macvlan on a nic without an address", "ip link add nic type veth peer name far; ip link set nic up; ip link add mv0 link nic type macvlan mode bridge; ip link set mv0 up; ip address add 10.7.0.7/24 dev mv0",
		"arp-ignore", "warning", "nic", []string{"10.7.0.7 of mv0"}, "sysctl -w net.ipv4.conf.nic.arp_ignore=1"},
	{"a virtual address", "ip address add 10.2.0.9/32 dev lo",
		"arp-ignore", "error", "eth1", []string{"all 0", "device 0", "effective 0", "10.2.0.9 of lo"}, "sysctl -w net.ipv4.conf.eth1.arp_ignore=1"},
	{"own addresses from outside", "sysctl -qw net.ipv4.conf.eth1.accept_local=1",
		"accept-local", "warning", "eth1", []string{"device 1", "effective 1"}, "sysctl -w net.ipv4.conf.eth1.accept_local=0"},
	{"redirects of a director", "sysctl -qw net.ipv4.ip_forward=1; nft add table ip t; nft add chain ip t pre '{ type nat hook prerouting priority -100; }'; nft add rule ip t pre ip daddr 10.1.0.100 dnat to 10.2.0.50",
		"send-redirects", "warning", "eth1", []string{"all 1", "device 1", "effective 1", "10.2.0.50"}, "sysctl -w net.ipv4.conf.all.send_redirects=0 net.ipv4.conf.eth1.send_redirects=0"},
	{"a rule for an own address", "ip route add default via 10.2.0.1 table 100; ip rule add from 10.2.0.100 lookup 100 priority 5",
		"needless-rules", "warning", "eth1", []string{"rule 5: from 10.2.0.100 lookup 100"}, "ip rule del priority 5 from 10.2.0.100 lookup 100"},
	{"a rule for an own ipv6 network", "ip -6 route add default via 2001:db8:2::1 table 100; ip -6 rule add from 2001:db8:2::/64 lookup 100 priority 5",
		"needless-rules", "warning", "eth1", []string{"rule 5: from 2001:db8:2::/64 lookup 100"}, "ip -6 rule del priority 5 from 2001:db8:2::/64 lookup 100"},
	{"connmark", "ip route add default via 10.2.0.1 table 100; ip rule add fwmark 1 lookup 100 priority 5; nft add table inet t; nft add chain inet t out '{ type route hook output priority -150; }'; nft add rule inet t out ct mark 1 meta mark set ct mark",
		"needless-marks", "warning", "eth1", []string{"rule 5: from all fwmark 0x1 lookup 100", "inet t out"}, "ip rule del priority 5 from all fwmark 0x1 lookup 100"},
	{"ipv6 connmark", "ip -6 route add default via 2001:db8:2::1 table 100; ip -6 rule add fwmark 1 lookup 100 priority 5; ip route add default via 10.2.0.1 table 100; ip rule add fwmark 1 lookup 100 priority 5; ip6tables -t mangle -A OUTPUT -j CONNMARK --restore-mark",
		"needless-marks", "warning", "eth1", []string{"rule 5: from all fwmark 0x1 lookup 100", "ip6 mangle OUTPUT"}, "ip -6 rule del priority 5 from all fwmark 0x1 lookup 100"},
	{"dev means iif, in ipv6 too", "ip -6 rule add from 2001:db8:2::100 dev eth1 lookup 100 priority 5",
		"rule-never-matches", "warning", "eth1", []string{"rule 5: from 2001:db8:2::100 iif eth1 lookup 100 never matches"}, "ip -6 rule del priority 5 from 2001:db8:2::100 iif eth1 lookup 100"},
	{"dev means iif", "ip rule add from 10.2.0.100 dev eth1 lookup 100 priority 5",
		"rule-never-matches", "warning", "eth1", []string{"rule 5: from 10.2.0.100 iif eth1 lookup 100 never matches"}, "ip rule del priority 5 from 10.2.0.100 iif eth1 lookup 100"},
	{"a filter of others at egress", "tc qdisc add dev eth1 clsact; tc filter add dev eth1 egress prio 7 protocol all u32 match u32 0 0 classid 1:1",
		"tc-programs", "warning", "eth1", []string{"filter u32 of priority 7 at egress"}, "tc filter del dev eth1 egress pref 7"},
	{"a filter of others in a chain of its own", "tc qdisc add dev eth1 clsact; tc filter add dev eth1 egress chain 3 prio 8 protocol all u32 match u32 0 0 classid 1:1",
		"tc-programs", "warning", "eth1", []string{"filter u32 of priority 8 at egress"}, "tc filter del dev eth1 egress pref 8 chain 3"},
	{"rules by the outgoing interface", `nft add table inet t; nft add chain inet t out '{ type filter hook output priority 0; }'; nft add rule inet t out oifname eth1 drop`,
		"outgoing-interface-rules", "warning", "", []string{"inet t out", "eth1"}, "nft delete rule inet t out handle "},
	{"more rules by the outgoing interface", `iptables -A OUTPUT -o eth1 -j DROP; iptables -A OUTPUT -o lo -j ACCEPT; iptables -A OUTPUT -o eth+ -p tcp -j DROP`,
		"outgoing-interface-rules", "warning", "", []string{"ip filter OUTPUT", "eth*", "eth1"}, "nft delete rule ip filter OUTPUT handle "},
	{"an egress chain of netdev", `nft add table netdev t; nft add chain netdev t out '{ type filter hook egress device "eth1" priority 0; }'`,
		"netdev-egress", "warning", "eth1", []string{"netdev t out"}, "nft delete chain netdev t out"},
}

// TestFaults brings each fault about on a host that has none, has doctor find it,
// types the command that stands beside it, and has doctor find it no more.
func TestFaults(t *testing.T) {
	for _, f := range faults {
		t.Run(f.name, func(t *testing.T) {
			t.Parallel()
			n := newServer(t)
			p := harness.On(t, n.Server.Host)
			if found := p.Doctor(0).Of(f.check, "").With(f.severity, f.words...); len(found) > 0 {
				t.Fatalf("found without its cause: %+v", found)
			}
			harness.Shell(t, n.Server.Host, f.script)
			fix := f.wantFound(t, p)
			harness.Shell(t, n.Server.Host, fix)
			if found := p.Examine().Of(f.check, f.device).With(f.severity, f.words...); len(found) > 0 {
				t.Errorf("found after %s: %+v", fix, found)
			}
		})
	}
}

// TestMTU shows where MTUs differ, and changes nothing about them: what a network
// carries is for a person to say.
func TestMTU(t *testing.T) {
	for script, larger := range map[string]string{"ip link set eth1 mtu 1400": "1500", "ip link set eth0 mtu 9000": "9000"} {
		n := newServer(t)
		p := harness.On(t, n.Server.Host)
		onlyOne(t, p.Doctor(0), "mtu", "", "ok")
		harness.Shell(t, n.Server.Host, script)
		fix := harness.OrEmpty(onlyOne(t, p.Doctor(0), "mtu", "eth1", "warning", "eth0 has "+larger).Fix)
		show, why, _ := strings.Cut(fix, "  # ")
		raise := "ip link set dev eth1 mtu " + larger
		if show != "ip link show dev eth1" || !strings.HasSuffix(why, "only if all of the network of eth1 carries "+larger+": "+raise) {
			t.Errorf("fix %q", fix)
		}
		harness.Shell(t, n.Server.Host, fix)
		onlyOne(t, p.Doctor(0), "mtu", "eth1", "warning", "eth0 has "+larger)
		harness.Shell(t, n.Server.Host, raise)
		onlyOne(t, p.Doctor(0), "mtu", "", "ok")
	}
}

// TestMTUOfTunnel leaves others alone where a tunnel's MTU is smaller.
func TestMTUOfTunnel(t *testing.T) {
	n := newServer(t)
	p := harness.On(t, n.Server.Host)
	harness.Shell(t, n.Server.Host, "ip link add vx0 type vxlan id 7 remote 10.2.0.1 dstport 4789 dev eth1; ip link set vx0 up; ip address add 10.9.0.1/24 dev vx0")
	fix := harness.OrEmpty(onlyOne(t, p.Doctor(0), "mtu", "vx0", "warning", "mtu 1450").Fix)
	if strings.Contains(fix, " mtu ") || !strings.HasPrefix(fix, "ip link show dev vx0  # nothing has to be done") {
		t.Errorf("fix %q", fix)
	}
}

// TestRoutedInterface names the NIC of the default route where the configuration
// names others only.
func TestRoutedInterface(t *testing.T) {
	n := newServer(t)
	p := harness.On(t, n.Server.Host)
	for text, want := range map[string]int{"interfaces: [{name: eth1}]\n": 2, "interfaces: [{name: eth0}, {name: eth1}]\n": 0} {
		path := harness.WriteConfig(t, text)
		found := p.Doctor(0, "--config", path).Of("routed-interface", "eth0").With("warning", "not named by the configuration")
		if len(found) != want {
			t.Errorf("%s: found %+v, not %d", text, found, want)
		}
		for _, f := range found {
			if !strings.Contains(harness.OrEmpty(f.Fix), "add {name: eth0} under interfaces in "+path) {
				t.Errorf("fix %q", harness.OrEmpty(f.Fix))
			}
		}
	}
}

// TestConfiguredGateway has the configuration name a gateway that does not answer,
// and an interface that is down.
func TestConfiguredGateway(t *testing.T) {
	n := newServer(t)
	p := harness.On(t, n.Server.Host)
	path := harness.WriteConfig(t, "interfaces: [{name: eth0}, {name: eth1, gateways: [10.2.0.77, 10.2.0.1]}]\n")
	fix := harness.OrEmpty(onlyOne(t, p.Doctor(3, "--config", path), "gateway", "eth1", "error", "10.2.0.77 is failed").Fix)
	if want := "set gateways: [10.2.0.1] of eth1 in " + path; !strings.HasPrefix(fix, want) {
		t.Errorf("fix %q, not %q", fix, want)
	}
	path = harness.WriteConfig(t, "interfaces: [{name: eth0}, {name: eth1, gateways: [10.2.0.1]}]\n")
	onlyOne(t, p.Doctor(0, "--config", path), "gateway", "eth1", "ok", "10.2.0.1")
	harness.Shell(t, n.Server.Host, "ip link set eth1 down")
	fix = harness.OrEmpty(onlyOne(t, p.Doctor(0, "--config", path), "gateway", "eth1", "warning", "10.2.0.1", "the interface is down").Fix)
	if fix != "ip link set eth1 up" {
		t.Errorf("fix %q", fix)
	}
	harness.Shell(t, n.Server.Host, fix)
	onlyOne(t, p.Doctor(0, "--config", path), "gateway", "eth1", "ok", "10.2.0.1")
}

// wantFound returns the command that mends it.
func (f *fault) wantFound(t *testing.T, p *harness.Product) string {
	t.Helper()
	code := 0
	if f.severity == "error" {
		code = 3
	}
	found := onlyOne(t, p.Doctor(code), f.check, f.device, f.severity, f.words...)
	if found.Fix == nil {
		t.Fatalf("no fix, where it is %q", f.fix)
	}
	command, _, _ := strings.Cut(*found.Fix, "  # ")
	if rest, ok := strings.CutPrefix(command, f.fix); !ok || rest != "" && !strings.HasSuffix(f.fix, " handle ") {
		t.Errorf("fix %q, not %q", *found.Fix, f.fix)
	}
	if isSysctl := strings.HasPrefix(command, "sysctl -w "); found.Automatic != isSysctl {
		t.Errorf("done by --fix: %v: %s", found.Automatic, *found.Fix)
	}
	return *found.Fix
}

// TestFixMendsWhatItMay has several faults at once: --fix sets the sysctls, leaves
// what is somebody's alone, and detach restores the host as it was with all its
// faults.
func TestFixMendsWhatItMay(t *testing.T) {
	n := newServer(t)
	p := harness.On(t, n.Server.Host)
	harness.Shell(t, n.Server.Host, `
sysctl -qw net.ipv4.conf.eth1.rp_filter=1 net.ipv4.conf.eth1.accept_local=1 net.ipv4.conf.all.arp_ignore=0
ip address add 10.1.0.7/24 dev eth1
ip address add 10.2.0.9/32 dev lo
ip route add default via 10.2.0.1 table 100
ip rule add from 10.2.0.100 lookup 100 priority 5
ip route add blackhole 10.66.0.0/16
nft add table inet t
nft add chain inet t pre '{ type filter hook prerouting priority 0; }'
nft add rule inet t pre iifname eth1 fib saddr . iif oif missing drop
`)
	before := harness.TakeSnapshot(t, n.Server.Host, "eth0", "eth1")
	d := p.Start()
	// The daemon mends rp_filter by itself, and leaves the rest.
	all := p.Doctor(3, "--fix")
	for _, fixed := range [][2]string{{"arp-ignore", "eth0"}, {"arp-ignore", "eth1"}, {"arp-announce", "eth0"}, {"arp-announce", "eth1"}} {
		if f := onlyOne(t, all, fixed[0], fixed[1], "ok"); !f.Fixed {
			t.Errorf("not mended: %+v", f)
		}
	}
	onlyOne(t, all, "reverse-path-rules", "eth1", "error")
	if f := onlyOne(t, all, "accept-local", "eth1", "ok", "device 0", "effective 0"); !f.Fixed {
		t.Errorf("not mended: %+v", f)
	}
	onlyOne(t, all, "needless-rules", "eth1", "warning")
	onlyOne(t, all, "refusing-routes", "", "warning")
	for key, want := range map[string]string{
		"eth0/arp_ignore": "1", "eth1/arp_ignore": "1", "eth0/arp_announce": "2", "eth1/arp_announce": "2",
		"eth1/rp_filter": "2", "eth1/accept_local": "0", "all/arp_ignore": "0",
	} {
		wantSysctl(t, n.Server.Host, "net/ipv4/conf/"+key, want)
	}
	if changes := p.Status().OtherChanges(); len(changes) != 6 {
		t.Errorf("%d host changes, not one by the daemon and five by doctor: %+v", len(changes), changes)
	}
	d.Stop(unix.SIGTERM)
	p.Detach()
	if diff := before.Diff(harness.TakeSnapshot(t, n.Server.Host, "eth0", "eth1")); diff != "" {
		t.Errorf("host after detach (-before +after):\n%s", diff)
	}
}

// TestTable is what people see.
func TestTable(t *testing.T) {
	n := newServer(t)
	p := harness.On(t, n.Server.Host)
	harness.Must(t, n.Server.SetSysctl(eth1RPFilter, "1"))
	result := p.Expect(3, "doctor")
	for _, words := range []string{"SEVERITY", "error ", "rp-filter", "sysctl -w net.ipv4.conf.eth1.rp_filter=2", "\nin order: "} {
		if !strings.Contains(result.Stdout, words) {
			t.Errorf("no %q: %s", words, result)
		}
	}
	if lines := strings.Split(strings.TrimSpace(result.Stderr), "\n"); len(lines) != 1 || !strings.Contains(lines[0], "rp-filter") {
		t.Errorf("not one line of error: %s", result)
	}
}

// nobody is a user without any rights (base-passwd's number).
const nobody = 65534

// TestWithoutRights says what is missing.
func TestWithoutRights(t *testing.T) {
	n := newServer(t)
	p := harness.On(t, n.Server.Host)
	result := p.RunAs(func(c *topology.Cmd) {
		c.SysProcAttr.Credential = &syscall.Credential{Uid: nobody, Gid: nobody}
	}, "doctor")
	if result.Code != 1 || !strings.Contains(result.Stderr, "root") || strings.Count(result.Stderr, "\n") != 1 {
		t.Errorf("as nobody: %s", result)
	}
}
