// SPDX-License-Identifier: Apache-2.0

package managers

import (
	"strings"
	"testing"
	"time"

	"replypath/test/await"
	"replypath/test/host"
	"replypath/test/product"
	"replypath/test/topology"
	"replypath/test/wire"
)

// ruleSets are set-ups of rules that stay in place beside replypath, as commands.
var ruleSets = map[string]string{
	"by source, for IPv4 alone": `
ip route add default via 10.2.0.1 dev eth1 table 102
ip rule add from 10.2.0.100 lookup 102
`,
	"by source, for IPv6 alone": `
ip -6 route add default via 2001:db8:2::1 dev eth1 table 102
ip -6 rule add from 2001:db8:2::100 lookup 102
`,
	"connmark": `
ip route add default via 10.2.0.1 dev eth1 table 102
ip -6 route add default via 2001:db8:2::1 dev eth1 table 102
ip rule add fwmark 0x66 lookup 102
ip -6 rule add fwmark 0x66 lookup 102
nft add table inet marks
nft add chain inet marks in '{ type filter hook prerouting priority -150; }'
nft add chain inet marks out '{ type route hook output priority -150; }'
nft add rule inet marks in iifname eth1 ct mark set 0x66
nft add rule inet marks out ct mark 0x66 meta mark set ct mark
`,
	"a tunnel for everything, as wg-quick makes it": `
ip tuntap add dev wg0 mode tun
ip link set wg0 up
ip address add 10.66.0.1/32 dev wg0
ip address add fd66::1/128 dev wg0 nodad
for family in -4 -6; do
	ip $family route add default dev wg0 table 51820
	ip $family rule add not fwmark 0xca6c table 51820
	ip $family rule add table main suppress_prefixlength 0
done
`,
}

// TestRulesStay runs replypath beside rules that are there already: answers go by eth1, whatever the rules say of them,
// what the host starts goes by the rules, and of these nothing is changed.
func TestRulesStay(t *testing.T) {
	for name, script := range ruleSets {
		t.Run(name, func(t *testing.T) {
			n, _ := newServer(t)
			host.Shell(t, n.Server.Host, script)
			started := routesOfOwn(t, n)
			before := host.TakeSnapshot(t, n.Server.Host, "eth0", "eth1")
			p, _ := product.StartOn(t, n.Server.Host)
			eachQuestion(t, n, "with replypath", wire.WantByEth1)
			await.Same(t, "where what the host starts goes", started, routesOfOwn(t, n))
			p.Expect(0, "detach", "--stop")
			t.Logf("what the host starts, before and with replypath:\n%s", started)
			await.Same(t, "host after detach", before, host.TakeSnapshot(t, n.Server.Host, "eth0", "eth1"))
		})
	}
}

// routesOfOwn tells where the host sends what it starts from either address.
func routesOfOwn(t *testing.T, n *topology.TwoNIC) string {
	t.Helper()
	return host.Shell(t, n.Server.Host, `
for from in 10.1.0.100 10.2.0.100; do ip route get 10.9.0.100 from $from; done
for from in 2001:db8:1::100 2001:db8:2::100; do ip -6 route get 2001:db8:9::100 from $from; done
`)
}

// backWithin is how soon what others take away is back.
const backWithin = time.Second

// TestSettingsTaken sets every sysctl back that replypath has changed, as `sysctl --system` does when a package is
// installed: it is changed again within a second, which is logged and counted, and questions to eth1 go on being
// answered.
func TestSettingsTaken(t *testing.T) {
	n, _ := newServer(t)
	await.Must(t, n.Server.SetSysctl("net/ipv4/conf/eth1/rp_filter", "1"))
	p, d := product.StartOn(t, n.Server.Host)
	repairs := func() float64 { return p.Metrics().Sum("replypath_host_repairs_total", "object=sysctl") }
	seen := 0
	quiet := product.Quiet(t)
	for _, change := range p.Status().HostChanges {
		key, isSysctl := strings.CutPrefix(change.Object, "sysctl ")
		if !isSysctl {
			continue
		}
		seen++
		var took []time.Duration
		for range 2 {
			before, lines := repairs(), len(d.Log.Lines("level=WARN", "a sysctl had been set back"))
			host.Shell(t, n.Server.Host, change.Undo)
			began := time.Now()
			d.WaitLog(lines+1, "level=WARN", "a sysctl had been set back")
			took = append(took, time.Since(began).Round(time.Millisecond))
			await.Same(t, key, change.After, strings.TrimSpace(host.Shell(t, n.Server.Host, "sysctl -n "+key)))
			await.Same(t, key+": repairs that are counted", 1, repairs()-before)
		}
		t.Logf("%s, twice: back after %v", change.Undo, took)
		for _, one := range took {
			if one > await.Patient(backWithin) {
				t.Errorf("%s is back after %s", key, one)
			}
		}
	}
	quiet()
	if seen == 0 {
		t.Error("no sysctl is changed")
	}
	eachQuestion(t, n, "then", wire.WantByEth1)
	p.Expect(0, "detach", "--stop")
	await.Same(t, "rp_filter after detach", "1", await.Must1[string](t)(n.Server.Sysctl("net/ipv4/conf/eth1/rp_filter")))
}
