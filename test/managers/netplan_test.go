// SPDX-License-Identifier: Apache-2.0

package managers

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"replypath/test/await"
	"replypath/test/product"
	"replypath/test/wire"
)

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
	p := product.On(t, n.Server.Host)
	p.Start()
	eachQuestion(t, n, "in their place", wire.WantByEth1)
	d.apply(netplanInterfaces + netplanRules)
	awaitOwn(t, n, p)
	eachQuestion(t, n, "beside them", wire.WantByEth1)
	wantNeedless(t, p, "from 10.2.0.100 lookup 102 proto static", "from 2001:db8:2::100 lookup 102 proto static")
}
