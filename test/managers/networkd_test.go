// SPDX-License-Identifier: Apache-2.0

package managers

import (
	"fmt"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"replypath/test/await"
	"replypath/test/product"
	"replypath/test/topology"
	"replypath/test/wire"
)

const networkdBinary = "/lib/systemd/systemd-networkd"

// eth0File is networkd's for eth0.
func eth0File(n *topology.TwoNIC) string {
	text := "[Match]\nName=eth0\n[Network]\nIPv6AcceptRA=no\n"
	for _, f := range n.Families() {
		text += fmt.Sprintf("Gateway=%s\n", n.Server.Eth0.Gateway(f))
	}
	return text + addressLines(n.Server.Eth0)
}

// eth1File is networkd's for eth1, without any rule or route.
func eth1File(n *topology.TwoNIC) string {
	return "[Match]\nName=eth1\n[Network]\nIPv6AcceptRA=no\n" + addressLines(n.Server.Eth1)
}

func addressLines(i *topology.Interface) (text string) {
	for _, a := range i.Addresses {
		text += fmt.Sprintf("Address=%s\n", a)
	}
	return text
}

// newNetworkd is a systemd-networkd that configures a server, before its start.
func newNetworkd(t *testing.T, n *topology.TwoNIC) *networkDaemon {
	t.Helper()
	return &networkDaemon{
		machine: newMachine(t, n.Server.Host), n: n, args: []string{networkdBinary}, anew: []string{"networkctl", "reconfigure"},
		asked: []string{"networkctl", "list", "--no-legend", "--no-pager"}, shown: `(?m)\beth%d .* configured\s*$`,
	}
}

// startNetworkd writes its files, starts it and waits until it has configured both interfaces.
func startNetworkd(t *testing.T, n *topology.TwoNIC, eth1 string) *networkDaemon {
	t.Helper()
	d := newNetworkd(t, n)
	d.write("/run/systemd/network/10-eth0.network", eth0File(n))
	d.write("/run/systemd/network/10-eth1.network", eth1)
	d.startBus()
	d.start()
	return d
}

// TestNetworkdDeletesRules sets up rules and routes by hand, as the recipe shows. They work until networkd is
// restarted, or told to configure eth1 anew.
func TestNetworkdDeletesRules(t *testing.T) {
	n, recipe := newServer(t)
	d := startNetworkd(t, n, eth1File(n))
	for name, change := range map[string]func(){"restart": d.restart, "reconfigure": func() { d.reconfigure("eth1") }} {
		recipe.Run(n.Server.Host, "By hand")
		eachQuestion(t, n, "before "+name, wire.WantByEth1)
		change()
		eachQuestion(t, n, "after "+name, wire.WantLost)
	}
}

// TestNetworkdRules is what the recipe shows for networkd alone: rules in its own files stay.
func TestNetworkdRules(t *testing.T) {
	n, recipe := newServer(t)
	d := startNetworkd(t, n, recipe.Text("With networkd", "ini"))
	d.restart()
	eachQuestion(t, n, "rules in a file", wire.WantByEth1)
}

// netplanDir is where netplan's files are.
const netplanDir = "/etc/netplan"

const (
	netplanInterfaces = `network:
  version: 2
  renderer: networkd
  ethernets:
    eth0:
      accept-ra: false
      addresses: [10.1.0.100/24, "2001:db8:1::100/64"]
      routes: [{to: default, via: 10.1.0.1}, {to: default, via: "2001:db8:1::1"}]
    eth1:
      accept-ra: false
      addresses: [10.2.0.100/24, "2001:db8:2::100/64"]
`
	netplanRules = `      routes: [{to: default, via: 10.2.0.1, table: 102}, {to: default, via: "2001:db8:2::1", table: 102}]
      routing-policy: [{from: 10.2.0.100, table: 102}, {from: "2001:db8:2::100", table: 102}]
`
)

// netplan writes networkd's files.
type netplan struct{ *networkDaemon }

// generate has netplan write networkd's files by one of its own.
func (d *netplan) generate(text string) {
	d.t.Helper()
	await.Must(d.t, os.WriteFile(netplanDir+"/50-server.yaml", []byte(text), 0o600))
	d.run("netplan", "generate")
}

// apply is `netplan apply`, which asks systemd as well.
func (d *netplan) apply(text string) {
	d.t.Helper()
	d.generate(text)
	d.run("networkctl", "reload")
	d.reconfigure("eth1")
}

// TestNetplan has netplan configure networkd. Its rules do what they are for, without them replies are lost. With
// replypath they are right without the rules and beside them.
func TestNetplan(t *testing.T) {
	n, _ := newServer(t)
	await.Must(t, unix.Mount("netplan", netplanDir, "tmpfs", 0, "mode=755"))
	t.Cleanup(func() { await.Must(t, unix.Unmount(netplanDir, unix.MNT_DETACH)) })
	d := &netplan{newNetworkd(t, n)}
	d.generate(netplanInterfaces + netplanRules)
	d.startBus()
	d.start()
	eachQuestion(t, n, "its rules alone", wire.WantByEth1)
	d.apply(netplanInterfaces)
	eachQuestion(t, n, "without its rules", wire.WantLost)
	p, _ := product.StartOn(t, n.Server.Host)
	eachQuestion(t, n, "in their place", wire.WantByEth1)
	d.apply(netplanInterfaces + netplanRules)
	awaitOwn(t, n, p)
	eachQuestion(t, n, "beside them", wire.WantByEth1)
	wantNeedless(t, p, "from 10.2.0.100 lookup 102 proto static", "from 2001:db8:2::100 lookup 102 proto static")
}
