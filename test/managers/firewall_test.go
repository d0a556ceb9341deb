// SPDX-License-Identifier: Apache-2.0

package managers

import (
	"strings"
	"testing"

	"replypath/test/await"
	testhost "replypath/test/host"
	"replypath/test/product"
	"replypath/test/topology"
	"replypath/test/traffic"
	"replypath/test/wire"
)

// firewall is one that lets the tests' questions in, and answers out, and its program.
type firewall struct {
	name      string
	load      func(*testing.T, *topology.Host)
	conntrack bool
}

// Rulesets for nft, as `systemctl reload nftables` loads them.
const (
	stateless = `flush ruleset
table inet filter {
	chain input {
		type filter hook input priority 0; policy drop
		iif lo accept
		meta l4proto { icmp, icmpv6 } accept
		meta l4proto { tcp, udp } th dport { 7, 9945 } accept
	}
}
`
	stateful = `flush ruleset
table inet filter {
	chain input {
		type filter hook input priority 0; policy drop
		ct state established,related accept
		ct state invalid drop
		iif lo accept
		meta l4proto { icmp, icmpv6 } accept
		meta l4proto { tcp, udp } th dport { 7, 9945 } ct state new accept
	}
	chain output {
		type filter hook output priority 0; policy accept
		ct state invalid drop
	}
}
`
)

// restored is what netfilter-persistent hands to iptables-restore and ip6tables-restore, with the name of ICMP for the
// family.
const restored = `*filter
:INPUT DROP [0:0]
:FORWARD DROP [0:0]
:OUTPUT ACCEPT [0:0]
-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A INPUT -m conntrack --ctstate INVALID -j DROP
-A INPUT -i lo -j ACCEPT
-A INPUT -p ICMP -j ACCEPT
-A INPUT -p tcp -m tcp --dport 7 -j ACCEPT
-A INPUT -p udp -m udp --dport 7 -j ACCEPT
-A OUTPUT -m conntrack --ctstate INVALID -j DROP
COMMIT
`

func nft(ruleset string) func(*testing.T, *topology.Host) {
	return func(t *testing.T, host *topology.Host) {
		t.Helper()
		testhost.Nft(t, host, ruleset)
	}
}

// restore does what a restart of netfilter-persistent does.
func restore(t *testing.T, host *topology.Host) {
	t.Helper()
	for program, icmp := range map[string]string{"iptables-restore": "icmp", "ip6tables-restore": "ipv6-icmp"} {
		c := host.Command(await.Within(t, await.AnswerTime), program)
		c.Stdin = strings.NewReader(strings.ReplaceAll(restored, "ICMP", icmp))
		if output, err := c.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", program, err, output)
		}
	}
}

// TestFirewallReloads loads firewalls anew under replypath, with connection tracking and without: nothing changes.
func TestFirewallReloads(t *testing.T) {
	for _, f := range []firewall{
		{"nftables without conntrack", nft(stateless), false},
		{"nftables with conntrack", nft(stateful), true},
		{"iptables", restore, true},
	} {
		t.Run(f.name, func(t *testing.T) {
			n, _ := newServer(t)
			f.load(t, n.Server.Host)
			wantUnchanged(t, n, func() { f.load(t, n.Server.Host) })
			tracked := await.Must1[string](t)(n.Server.Sysctl("net/netfilter/nf_conntrack_count"))
			if isTracked := tracked != "0"; isTracked != f.conntrack {
				t.Errorf("%s connections are tracked", tracked)
			}
		})
	}
}

// copied gives a machine copies of directories, which are changed in their place.
const copied = `
copied() {
	for dir; do
		mkdir -p /run/upper$dir /run/work$dir
		mount -t overlay -o lowerdir=$dir,upperdir=/run/upper$dir,workdir=/run/work$dir overlay $dir
	done
}
`

// TestUFW runs Debian's ufw and has it load its rules anew: nothing changes.
func TestUFW(t *testing.T) {
	n, _ := newServer(t)
	m := newMachine(t, n.Server.Host)
	m.run("sh", "-ec", copied+`
		copied /etc/ufw /var/lib # ufw makes its directory there when it is first used
		ufw allow 7
		ufw --force enable`)
	wantUnchanged(t, n, func() { m.run("ufw", "reload") })
}

// TestFirewalld runs firewalld. It drops IPv6 questions to eth1 itself, as the route back leads by eth0
// (IPv6_rpfilter), with replypath too: doctor says so. Without that setting firewalld loads its rules anew, and nothing
// changes.
func TestFirewalld(t *testing.T) {
	n, _ := newServer(t)
	m := newMachine(t, n.Server.Host)
	m.run("sh", "-ec", copied+"copied /etc/firewalld /var/log; mkdir -p /run/firewalld")
	m.startBus()
	m.start("firewalld", "--nofork", "--nopid")
	await.Eventually(t, "firewalld runs", func() error { return m.command("firewall-cmd", "--state").Run() })
	m.run("firewall-cmd", "--permanent", "--add-port=7/tcp", "--add-port=7/udp")
	reload := func() { m.run("firewall-cmd", "--reload") }
	reload()
	p, _ := product.StartOn(t, n.Server.Host)
	dropped := traffic.NewConversation(t, traffic.UDP, n.ClientEth0, n.Server.Eth1.Address(topology.IPv6))
	wires := wire.Tap(t, n.Server)
	if err := wire.AskUntilLost(t, dropped, wires.Eth1, dropped.Questions()); err == nil {
		t.Errorf("%s was answered", dropped)
	}
	found := p.Examine().Of("reverse-path-rules", "")
	if len(found) == 0 || found[0].Severity == "ok" {
		t.Errorf("doctor, of IPv6_rpfilter: %+v", found)
	}
	p.Expect(0, "detach", "--stop")
	m.run("sed", "-i", "s/^IPv6_rpfilter=.*/IPv6_rpfilter=no/", "/etc/firewalld/firewalld.conf")
	reload()
	wantUnchanged(t, n, reload)
}
