// SPDX-License-Identifier: Apache-2.0

package managers

import (
	"fmt"
	"testing"

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
