package managers

import (
	"context"
	"net/netip"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"replypath/test/harness"
	"replypath/test/topology"
)

// leased are the addresses that eth1 gets, one after the other.
var leased = []netip.Addr{netip.MustParseAddr("10.2.0.150"), netip.MustParseAddr("10.2.0.151")}

// leasedFile is networkd's for an eth1 that has its IPv4 address by DHCP, and with
// it no route but that of its network.
const leasedFile = `[Match]
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
`

// lease runs a DHCP server on eth1's router, which has one address to give.
func lease(t *testing.T, n *topology.TwoNIC, address netip.Addr) *harness.Program {
	t.Helper()
	leases := filepath.Join(t.TempDir(), "leases")
	c := n.Replication.Command(context.Background(), "dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null",
		"--port=0", "--user=root", "--pid-file=", "--log-facility=-", "--log-dhcp", "--no-ping",
		"--interface="+n.Server.Eth1.Peer().Name, "--bind-interfaces", "--dhcp-authoritative", "--dhcp-leasefile="+leases,
		"--dhcp-range=10.2.0.0,static,255.255.255.0,2m",
		"--dhcp-host="+n.Server.Eth1.MAC.String()+","+address.String())
	server := harness.StartProgram(t, c, unix.SIGTERM)
	server.WaitLog(1, "DHCP, static leases only")
	return server
}

// TestDHCP has eth1's address by DHCP: its renewal changes nothing for an open
// connection, and another address is known within a second.
func TestDHCP(t *testing.T) {
	const renewals = 3
	n, _ := newServer(t)
	server := lease(t, n, leased[0])
	d := startNetworkd(t, n, leasedFile)
	p := harness.On(t, n.Server.Host)
	p.Start()
	harness.AwaitAddress(t, n.Server.Eth1, leased[0], true)
	p.AwaitOwn(leased[0], true, time.Now())
	harness.Serve(t, n.Server.Host, leased[0])
	long := harness.NewConversation(t, harness.TCP, n.ClientEth0, leased[0])
	wires := harness.Tap(t, n.Server)
	talk := long.Keep(t)
	server.WaitLog(1, "DHCPACK", leased[0].String())
	for i := range renewals {
		d.run("networkctl", "renew", "eth1")
		server.WaitLog(2+i, "DHCPACK", leased[0].String())
		for _, kind := range harness.Kinds {
			wantByEth1(t, n, harness.NewConversation(t, kind, n.ClientEth0, leased[0]))
		}
	}
	t.Logf("%d renewals, %d answers of an open connection, all by eth1", renewals, talk.Stop())
	wires.WantEth1("a connection that stays open", long.Answers())

	server.Signal(unix.SIGTERM)
	server.WaitEnd()
	lease(t, n, leased[1])
	d.run("networkctl", "reconfigure", "eth1")
	took := p.AwaitOwn(leased[1], true, harness.AwaitAddress(t, n.Server.Eth1, leased[1], true))
	gone := p.AwaitOwn(leased[0], false, harness.AwaitAddress(t, n.Server.Eth1, leased[0], false))
	t.Logf("another address: known after %s, the old one forgotten after %s",
		took.Round(time.Millisecond), gone.Round(time.Millisecond))
	if took > harness.Patient(backWithin) || gone > harness.Patient(backWithin) {
		t.Error("that is too late")
	}
	harness.Serve(t, n.Server.Host, leased[1])
	for _, kind := range harness.Kinds {
		wantByEth1(t, n, harness.NewConversation(t, kind, n.ClientEth0, leased[1]))
	}
}
