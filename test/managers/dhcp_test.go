// SPDX-License-Identifier: Apache-2.0

package managers

import (
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"replypath/test/await"
	"replypath/test/product"
	"replypath/test/topology"
	"replypath/test/traffic"
	"replypath/test/wire"
)

// dhcp is that of one family.
type dhcp struct {
	family topology.Family
	leased []netip.Addr // that eth1 gets, one after the other
	file   string       // networkd's for eth1
	// offer are dnsmasq's arguments for an address, ready is what it says then.
	offer func(eth1 *topology.Interface, address netip.Addr) []string
	ready string
	given string // is logged with every lease
	// renew is what networkd can be asked for: for IPv6 that is a lease anew.
	renew string
}

// dhcps are both. With its address eth1 gets no route but that of its network.
var dhcps = []dhcp{
	{
		family: topology.IPv4,
		leased: []netip.Addr{netip.MustParseAddr("10.2.0.150"), netip.MustParseAddr("10.2.0.151")},
		file: `[Match]
Name=eth1
[Network]
DHCP=ipv4
IPv6AcceptRA=no
Address=2001:db8:2::100/64
[DHCPv4]
ClientIdentifier=mac
UseGateway=no
UseDNS=no
UseHostname=no
`,
		offer: func(eth1 *topology.Interface, address netip.Addr) []string {
			return []string{"--dhcp-range=10.2.0.0,static,255.255.255.0,2m", "--dhcp-host=" + eth1.MAC.String() + "," + address.String()}
		},
		ready: "DHCP, static leases only", given: "DHCPACK", renew: "renew",
	},
	{
		family: topology.IPv6,
		leased: []netip.Addr{netip.MustParseAddr("2001:db8:2::150"), netip.MustParseAddr("2001:db8:2::151")},
		// Its network is told by routers, of which there is none here.
		file: `[Match]
Name=eth1
[Network]
DHCP=ipv6
IPv6AcceptRA=no
Address=10.2.0.100/24
Address=2001:db8:2::100/64
[DHCPv6]
WithoutRA=solicit
UseDNS=no
UseHostname=no
`,
		offer: func(_ *topology.Interface, address netip.Addr) []string {
			return []string{"--dhcp-range=" + address.String() + "," + address.String() + ",64,2m"}
		},
		ready: "DHCPv6, IP range", given: "DHCPREPLY", renew: "reconfigure",
	},
}

// lease runs a DHCP server on eth1's router, which has one address to give.
func (d *dhcp) lease(t *testing.T, n *topology.TwoNIC, address netip.Addr) *product.Program {
	t.Helper()
	server := dnsmasq(t, n.Server.Eth1, d.offer(n.Server.Eth1, address)...)
	server.WaitLog(1, d.ready)
	return server
}

// TestDHCP has eth1's address by DHCP: its renewal changes nothing for an open connection, and another address is known
// within a second.
func TestDHCP(t *testing.T) {
	for _, d := range dhcps {
		t.Run(d.family.String(), func(t *testing.T) {
			n, _ := newServer(t)
			server := d.lease(t, n, d.leased[0])
			network := startNetworkd(t, n, d.file)
			p, _ := product.StartOn(t, n.Server.Host)
			product.AwaitAddress(t, n.Server.Eth1, d.leased[0], true)
			p.AwaitOwn(d.leased[0], true, time.Now())
			traffic.Serve(t, n.Server.Host, d.leased[0])
			server.WaitLog(1, d.given, d.leased[0].String())
			d.renews(t, n, p, network, server)
			server.Signal(unix.SIGTERM)
			server.WaitEnd()
			d.changes(t, n, p, network)
		})
	}
}

// renews has the lease renewed under an open connection.
func (d *dhcp) renews(t *testing.T, n *topology.TwoNIC, p *product.Product, network *networkDaemon, server *product.Program) {
	t.Helper()
	const renewals = 3
	long := traffic.NewConversation(t, traffic.TCP, n.ClientEth0, d.leased[0])
	wires := wire.Tap(t, n.Server)
	talk := long.Keep(t)
	for range renewals {
		given := len(server.Log.Lines(d.given, d.leased[0].String()))
		network.run("networkctl", d.renew, "eth1")
		server.WaitLog(given+1, d.given, d.leased[0].String())
		network.waitConfigured() // anew, it takes the address away and gives it back
		product.AwaitAddress(t, n.Server.Eth1, d.leased[0], true)
		p.AwaitOwn(d.leased[0], true, time.Now())
		d.asked(t, n, d.leased[0])
	}
	t.Logf("%s, %d leases given again: %d answers of an open connection, all by eth1", d.family, renewals, talk.Stop())
	wires.WantEth1("a connection that stays open", long.Answers())
}

// asked asks at an address, and wants answers by eth1 only.
func (d *dhcp) asked(t *testing.T, n *topology.TwoNIC, address netip.Addr) {
	t.Helper()
	for _, kind := range traffic.Kinds {
		wire.WantByEth1(t, n.Server, traffic.NewConversation(t, kind, n.ClientEth0, address))
	}
}

// changes has eth1 get another address.
func (d *dhcp) changes(t *testing.T, n *topology.TwoNIC, p *product.Product, network *networkDaemon) {
	t.Helper()
	d.lease(t, n, d.leased[1])
	quiet := product.Quiet(t)
	network.run("networkctl", "reconfigure", "eth1")
	took := p.AwaitOwn(d.leased[1], true, product.AwaitAddress(t, n.Server.Eth1, d.leased[1], true))
	gone := p.AwaitOwn(d.leased[0], false, product.AwaitAddress(t, n.Server.Eth1, d.leased[0], false))
	quiet()
	t.Logf("%s, another address: known after %s, the old one forgotten after %s",
		d.family, took.Round(time.Millisecond), gone.Round(time.Millisecond))
	if took > await.Patient(backWithin) || gone > await.Patient(backWithin) {
		t.Error("that is too late")
	}
	traffic.Serve(t, n.Server.Host, d.leased[1])
	d.asked(t, n, d.leased[1])
}
