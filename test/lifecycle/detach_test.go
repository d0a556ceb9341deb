// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"

	"replypath/test/await"
	"replypath/test/host"
	"replypath/test/product"
	"replypath/test/server"
	"replypath/test/short"
	"replypath/test/topology"
	"replypath/test/traffic"
	"replypath/test/wire"
)

// TestDetachRestores works on a host and wants everything as it was: what tc, bpftool, ip and nft show, every sysctl,
// and no pin. Others have set the host up before, with filters of their own in the hooks that replypath uses, a rule, a
// table, a firewall and a fixed neighbour; or nobody has touched it.
func TestDetachRestores(t *testing.T) {
	for _, mechanism := range mechanisms {
		for what, command := range map[string]string{"untouched": "", "occupied": `
			tc qdisc add dev eth1 clsact
			tc filter add dev eth1 ingress prio 1 protocol ip handle 1: u32 divisor 1
			tc filter add dev eth1 egress prio 1 protocol all u32 match u32 0 0 classid 1:1
			ip rule add from 192.0.2.0/24 lookup 100
			ip route add default via 10.2.0.1 table 100
			ip -6 route add default via 2001:db8:2::1 table 100
			nft add table inet theirs
			sysctl -q -w net.ipv4.conf.eth1.rp_filter=1`} {
			if short.Run(t) && (mechanism == "tcx") != (what == "untouched") {
				continue
			}
			t.Run(mechanism+"/"+what, func(t *testing.T) {
				n, p := server.NewExact(t)
				if command != "" {
					host.Shell(t, n.Server.Host, "set -e"+command)
					stranger := net.HardwareAddr{2, 0, 0, 0, 0xff, 1}
					await.Must(t, n.Server.Eth1.AddNeighbour(n.Server.Eth1.Address(topology.IPv4).Next(), stranger))
				}
				testRestores(t, n, p, mechanism)
				wire.WantBy(t, n.Server, conversation(t, n, traffic.TCP, topology.IPv6), false)
			})
		}
	}
}

func testRestores(t *testing.T, n *topology.TwoNIC, p *product.Product, mechanism string) {
	pins, before := host.Pins(t), snapshot(t, n)
	start(p, mechanism)
	wantAll(t, n, true)
	if before.Diff(snapshot(t, n)) == "" {
		t.Error("the snapshot does not show that something is attached")
	}
	result := p.Expect(0, "detach", "--stop")
	await.Says(t, "detach", result.Stdout, "removed")
	await.Same(t, "host after detach", before, snapshot(t, n))
	await.Same(t, "pins after detach", pins, host.Pins(t))
	t.Logf("%d outputs of commands, sysctls and lists of programs compared after detach", len(before))
}

// TestDetachLeavesOthersChanges restores a sysctl only while it holds the value
// that replypath gave it, detaches where there is nothing to detach, and again where there is nothing any more.
func TestDetachLeavesOthersChanges(t *testing.T) {
	n, p := server.NewExact(t)
	p.Detach()
	await.Must(t, n.Server.SetSysctl(eth1RPFilter, "1"))
	p.Start().Kill()
	await.Must(t, n.Server.SetSysctl(eth1RPFilter, "0"))
	p.Detach()
	wantRPFilter(t, n, "0")
	p.Detach()
	p.Expect(3, "status")
	p.Expect(1, "flows", "-o", "json")
}

// TestDetachBesideDaemon refuses while the daemon runs, and names it, unless it is to end it: then the daemon does not say
// that replies stay corrected.
func TestDetachBesideDaemon(t *testing.T) {
	n, p := server.NewExact(t)
	d := p.Start()
	wantOneLine(t, p.Expect(1, "detach"), fmt.Sprint(d.PID()), "--stop")
	wire.WantBy(t, n.Server, conversation(t, n, traffic.TCP, topology.IPv4), true)
	p.Expect(0, "detach", "--stop")
	d.WantEnd(0)
	wantSaid(t, d, "what is attached goes; `replypath detach --stop --pin-dir "+p.PinDir+"` takes it away", false)
	wire.WantBy(t, n.Server, conversation(t, n, traffic.TCP, topology.IPv4), false)
}

const eth1RPFilter = "net/ipv4/conf/eth1/rp_filter"

// TestStrictRPFilter starts on a host that drops the question itself, as
// distributions ship it: strict becomes loose, is told, and is put back. It is left alone where replypath is told so.
func TestStrictRPFilter(t *testing.T) {
	n, p := server.NewExact(t)
	await.Must(t, n.Server.SetSysctl(eth1RPFilter, "1"))
	wires := wire.Tap(t, n.Server)
	unheard := conversation(t, n, traffic.Ping, topology.IPv4)
	if err := unheard.Ask(await.Within(t, await.SilenceTime)); err == nil {
		t.Fatal("the host answers in spite of its strict rp_filter")
	}
	if eth0, eth1 := wires.Left(unheard.Answers()); len(eth0)+len(eth1) > 0 {
		t.Fatalf("the host answers in spite of its strict rp_filter: %d by eth0, %d by eth1", len(eth0), len(eth1))
	}

	p.Start("--config", product.WriteConfig(t, "manage_rp_filter: false\n"))
	wantRPFilter(t, n, "1")
	s := p.Status()
	touched := slices.ContainsFunc(s.HostChanges, func(c product.HostChange) bool { return strings.Contains(c.Object, "rp_filter") })
	if touched || *s.Interface("eth1").RPFilter != 1 {
		t.Errorf("left alone: host changes %+v, rp_filter %d", s.HostChanges, *s.Interface("eth1").RPFilter)
	}
	p.Expect(0, "detach", "--stop")

	d := p.Start()
	frames := 0
	for _, kind := range traffic.Kinds {
		frames += len(wire.WantBy(t, n.Server, conversation(t, n, kind, topology.IPv4), true))
	}
	wantRPFilter(t, n, "2")
	s = p.Status()
	if got := s.Interface("eth1").RPFilter; got == nil || *got != 2 {
		t.Errorf("the status has rp_filter %v on eth1", got)
	}
	want := product.HostChange{Object: "sysctl net.ipv4.conf.eth1.rp_filter", Before: "1", After: "2"}
	// Without TCX there are qdiscs as well.
	sysctls := slices.DeleteFunc(s.OtherChanges(), func(c product.HostChange) bool {
		return !strings.HasPrefix(c.Object, "sysctl ")
	})
	if len(sysctls) != 1 {
		t.Fatalf("host changes %+v, want %+v", s.HostChanges, want)
	}
	got := sysctls[0]
	want.Undo = got.Undo
	if got != want || got.Undo == "" {
		t.Errorf("host change %+v, want %+v", got, want)
	}
	await.Same(t, "replypath_rp_filter of eth1", 2, p.Metrics().Sum("replypath_rp_filter", "interface=eth1"))
	d.WaitLog(1, "rp_filter", "eth1")
	d.Kill()
	p.Detach()
	wantRPFilter(t, n, "1")
	t.Logf("strict: 1 question, 0 answers; loose: %d questions by ping, TCP and UDP, %d frames of answers by eth1; strict again after detach",
		len(traffic.Kinds), frames)
}

func wantRPFilter(t *testing.T, n *topology.TwoNIC, want string) {
	t.Helper()
	await.Same(t, "rp_filter of eth1", want, await.Must1[string](t)(n.Server.Sysctl(eth1RPFilter)))
}

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
