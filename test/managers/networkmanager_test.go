// SPDX-License-Identifier: Apache-2.0

package managers

import (
	"fmt"
	"testing"

	"replypath/test/topology"
	"replypath/test/wire"
)

const networkManagerBinary = "/usr/sbin/NetworkManager"

// networkManagerConf keeps NetworkManager to the interfaces: it may neither name the machine nor write its resolv.conf,
// nor ask the internet whether it is there.
const networkManagerConf = `[main]
plugins=keyfile
dns=none
rc-manager=unmanaged
hostname-mode=none
[connectivity]
enabled=false
`

// keyfile is NetworkManager's for an interface, without any rule or route but, for eth0, the default one.
func keyfile(n *topology.TwoNIC, i *topology.Interface) string {
	text := fmt.Sprintf("[connection]\nid=%[1]s\ntype=ethernet\ninterface-name=%[1]s\n", i.Name)
	for _, f := range n.Families() {
		text += fmt.Sprintf("[%s]\nmethod=manual\n", f)
		for k, a := range i.Addresses {
			if topology.FamilyOf(a.Addr()) == f {
				text += fmt.Sprintf("address%d=%s\n", k+1, a)
			}
		}
		if i == n.Server.Eth0 {
			text += fmt.Sprintf("gateway=%s\n", i.Gateway(f))
		}
	}
	return text
}

// startNetworkManager writes its files, starts it and waits until it has configured both interfaces.
func startNetworkManager(t *testing.T, n *topology.TwoNIC, eth1 string) *networkDaemon {
	t.Helper()
	d := &networkDaemon{
		machine: newMachine(t, n.Server.Host), n: n, args: []string{networkManagerBinary, "--no-daemon"},
		anew:  []string{"nmcli", "connection", "up"},
		asked: []string{"nmcli", "--terse", "--fields", "DEVICE,STATE", "device"}, shown: `(?m)^eth%d:connected$`,
	}
	const connections = "/etc/NetworkManager/system-connections"
	d.run("mkdir", "-p", connections)
	d.write("/etc/NetworkManager/NetworkManager.conf", networkManagerConf)
	for name, text := range map[string]string{"eth0": keyfile(n, n.Server.Eth0), "eth1": eth1} {
		path := connections + "/" + name + ".nmconnection"
		d.write(path, text)
		d.run("chmod", "600", path) // others' files are ignored
	}
	// Else it would take what is there for somebody else's, and leave it.
	forgetAddresses(t, n)
	d.startBus()
	d.start()
	return d
}

// TestNetworkManagerDeletesRoutes sets up rules and routes by hand, as the recipe shows. They work until NetworkManager
// is told to configure eth1 anew.
func TestNetworkManagerDeletesRoutes(t *testing.T) {
	n, recipe := newServer(t)
	d := startNetworkManager(t, n, keyfile(n, n.Server.Eth1))
	recipe.Run(n.Server.Host, "By hand")
	eachQuestion(t, n, "before", wire.WantByEth1)
	d.reconfigure("eth1")
	eachQuestion(t, n, "after", wire.WantLost)
}

// TestNetworkManagerRules is what the recipe shows for NetworkManager alone.
func TestNetworkManagerRules(t *testing.T) {
	n, recipe := newServer(t)
	d := startNetworkManager(t, n, recipe.Text("With NetworkManager", "ini"))
	for name, change := range map[string]func(){"restart": d.restart, "reconfigure": func() { d.reconfigure("eth1") }} {
		change()
		eachQuestion(t, n, "rules in a file, "+name, wire.WantByEth1)
	}
}
