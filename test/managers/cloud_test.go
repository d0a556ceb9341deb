// SPDX-License-Identifier: Apache-2.0

package managers

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"replypath/test/await"
	"replypath/test/host"
	"replypath/test/product"
	"replypath/test/topology"
	"replypath/test/traffic"
	"replypath/test/wire"
)

// startEC2 runs networkd with the files of amazon-ec2-net-utils, and then its program for eth1, as udev has it run.
func startEC2(t *testing.T, n *topology.TwoNIC) *networkDaemon {
	t.Helper()
	d := newNetworkd(t, n)
	// The agent's file is for the drivers of its cloud.
	d.run("sh", "-ec", `
		sed -e 's/^Driver=.*/Driver=veth/' -e '/^MTUBytes/d' /usr/lib/systemd/network/80-ec2.network >/run/80-ec2.network
		mount --bind /run/80-ec2.network /usr/lib/systemd/network/80-ec2.network`)
	d.write("/run/systemd/network/10-eth0.network", eth0File(n))
	forgetAddresses(t, n)
	d.startBus()
	d.start()
	d.refresh()
	return d
}

// refresh is what the agent does every minute. It returns when its rules are there.
func (d *networkDaemon) refresh() {
	d.t.Helper()
	d.run("setup-policy-routes", "eth1", "start")
	await.Eventually(d.t, "the agent's rules are there", func() error {
		rules := host.Shell(d.t, d.n.Server.Host,
			"for f in -4 -6; do ip $f rule show; ip $f route show table 10001 || true; done")
		for _, want := range []string{"from 10.2.0.100 lookup 10001", "from 10.2.0.101 lookup 10001",
			"from 2001:db8:2::100 lookup 10001", "default via 10.2.0.1", "default via fe80:"} {
			if !strings.Contains(rules, want) {
				return errors.New("no " + want + " in\n" + rules)
			}
		}
		return nil
	})
	for _, a := range append(d.n.Server.Eth1.Addresses, secondary) {
		product.AwaitAddress(d.t, d.n.Server.Eth1, a.Addr(), true)
	}
	d.waitConfigured()
}

// withoutRules takes the agent's rules away, as if it had never run.
const withoutRules = `
for family in -4 -6; do
	while ip $family rule del lookup 10001 2>/dev/null; do :; done
done
`

// TestEC2NetUtils runs the agent of Debian for EC2 on networkd, with DHCP and a metadata service in the place of the
// cloud's. Its rules do what they are for, without them replies are lost. With replypath they are right beside the
// rules, when the agent makes them anew, and without them.
func TestEC2NetUtils(t *testing.T) {
	n, _ := newServer(t)
	serveMetadata(t, n, newEC2Metadata(n))
	serveLeases(t, n.Server.Eth1)
	d := startEC2(t, n)
	traffic.Serve(t, n.Server.Host, secondary.Addr())
	each := func(name string, want func(testing.TB, *topology.Server, *traffic.Conversation)) {
		t.Helper()
		eachQuestion(t, n, name, want)
		for _, kind := range traffic.Kinds {
			want(t, n.Server, traffic.NewConversation(t, kind, n.ClientEth0, secondary.Addr()))
		}
	}
	each("the agent alone", wire.WantByEth1)
	host.Shell(t, n.Server.Host, withoutRules)
	each("without its rules", wire.WantLost)
	p, _ := product.StartOn(t, n.Server.Host)
	each("in its place", wire.WantByEth1)
	d.reconfigure("eth1")
	d.refresh()
	awaitOwn(t, n, p)
	p.AwaitOwn(secondary.Addr(), true, time.Now())
	each("beside it", wire.WantByEth1)
	wantNeedless(t, p,
		"from 10.2.0.100 lookup 10001", "from 10.2.0.101 lookup 10001", "from 2001:db8:2::100 lookup 10001")
}

// wantNeedless wants plan to say that replies need none of the rules for eth1's addresses. Their protocol names nobody.
func wantNeedless(t *testing.T, p *product.Product, rules ...string) {
	t.Helper()
	made := p.Plan(0)
	for _, words := range rules {
		if r := made.Of("rule", words); r.Verdict != "not-needed" || r.Owner != nil {
			t.Errorf("plan: %+v", r)
		}
	}
}

// cloudSetup is what nm-cloud-setup has NetworkManager apply to eth1, in the words of nmcli that its manual has:
// Debian's NetworkManager is made without the program.
func cloudSetup(eth1 *topology.Interface) []string {
	address := eth1.Address(topology.IPv4).String()
	return []string{"nmcli", "device", "modify", "eth1",
		"ipv4.routes", "10.2.0.0/24 0.0.0.0 10 table=30201, 0.0.0.0/0 10.2.0.1 10 table=30401",
		"ipv4.routing-rules", fmt.Sprintf("priority 30201 from %[1]s/32 table 30201, "+
			"priority 30350 from 0.0.0.0/0 table 254 suppress_prefixlength 0, priority 30401 from %[1]s/32 table 30401", address)}
}

// TestCloudSetup gives NetworkManager what nm-cloud-setup gives it. That serves IPv4 alone. replypath serves both
// families beside it, and when NetworkManager forgets it.
func TestCloudSetup(t *testing.T) {
	n, _ := newServer(t)
	d := startNetworkManager(t, n, keyfile(n, n.Server.Eth1))
	apply := func() {
		t.Helper()
		d.run(cloudSetup(n.Server.Eth1)...)
		d.waitConfigured()
	}
	apply()
	for f, want := range map[topology.Family]func(testing.TB, *topology.Server, *traffic.Conversation){
		topology.IPv4: wire.WantByEth1, topology.IPv6: wire.WantLost,
	} {
		for _, kind := range traffic.Kinds {
			want(t, n.Server, traffic.NewConversation(t, kind, n.ClientEth0, n.Server.Eth1.Address(f)))
		}
	}
	p, _ := product.StartOn(t, n.Server.Host)
	eachQuestion(t, n, "beside it", wire.WantByEth1)
	wantNeedless(t, p, "from 10.2.0.100 lookup 30401")
	d.reconfigure("eth1") // forgets it
	awaitOwn(t, n, p)
	eachQuestion(t, n, "in its place", wire.WantByEth1)
	apply()
	awaitOwn(t, n, p)
	eachQuestion(t, n, "it is back", wire.WantByEth1)
}
