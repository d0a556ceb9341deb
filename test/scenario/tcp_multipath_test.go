// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"fmt"
	"net"
	"net/netip"
	"testing"

	"replypath/test/harness"
	"replypath/test/topology"
)

// TestMultipathTCP has the client open a connection to one of the server's addresses
// and, as the server names its other one, a second subflow to that. Without replypath
// the one to eth1 is answered by eth0, which is lost; with it, each is answered by the
// NIC that it came by.
func TestMultipathTCP(t *testing.T) {
	c := newMultipath(t)
	for _, f := range harness.Families {
		t.Run("without replypath/"+f.String(), func(t *testing.T) { c.wantNoSecond(t, f) })
	}
	c.start()
	for _, f := range harness.Families {
		for _, nic := range []*topology.Interface{c.Server.Eth0, c.Server.Eth1} {
			t.Run("opened to "+nic.Name+"/"+f.String(), func(t *testing.T) { c.wantBoth(t, f, nic) })
		}
	}
}

// multipath is a server at both of whose addresses clients speak Multipath TCP.
type multipath struct{ corners }

func newMultipath(t *testing.T) multipath {
	t.Helper()
	c := newCornersWithout(t)
	for _, h := range []*topology.Host{c.Client, c.Server.Host} {
		harness.Shell(t, h, "ip mptcp limits set subflow 4 add_addr_accepted 4")
	}
	return multipath{c}
}

// other returns the server's other NIC.
func (c multipath) other(nic *topology.Interface) *topology.Interface {
	if nic == c.Server.Eth0 {
		return c.Server.Eth1
	}
	return c.Server.Eth0
}

// open opens a connection to the address of one NIC; the server names that of the other.
func (c multipath) open(t *testing.T, f topology.Family, to *topology.Interface) *pair {
	t.Helper()
	named := c.other(to)
	harness.Shell(t, c.Server.Host, fmt.Sprintf("ip mptcp endpoint flush; ip mptcp endpoint add %s dev %s signal", named.Address(f), named.Name))
	d := dialect{multipath: true, wildcard: true}
	l := c.listen(t, f, d)
	at := netip.AddrPortFrom(to.Address(f), l.Addr().(*net.TCPAddr).AddrPort().Port())
	p := c.dialAt(t, at, d)
	p.accept(t, l)
	p.goOn(t)
	for _, end := range []*net.TCPConn{p.client, p.server} {
		if used, err := end.MultipathTCP(); err != nil || !used {
			t.Errorf("multipath tcp is used: %t, %v", used, err)
		}
	}
	return p
}

// subflow matches what the server sends by the subflow to one of its NICs.
func (p *pair) subflow(f topology.Family, nic *topology.Interface) topology.Filter {
	return topology.All(topology.TCP, topology.From(nic.Address(f)), topology.FromPort(p.port()))
}

var (
	handshake    = topology.Flags(topology.SYN|topology.ACK, topology.SYN|topology.ACK)
	notHandshake = topology.Flags(topology.SYN|topology.RST, 0)
)

// wantNoSecond opens a connection to eth0. The subflow to eth1 is answered by eth0, and
// never gets beyond its handshake.
func (c multipath) wantNoSecond(t *testing.T, f topology.Family) {
	exits := harness.TapAll(t, c.eth1.nics...)
	p := c.open(t, f, c.Server.Eth0)
	second := p.subflow(f, c.Server.Eth1)
	// The kernel answers once more when it hears nothing.
	harness.Must1[[]*topology.Frame](t)(exits.At(c.Server.Eth0).WaitCount(harness.Within(t, harness.AnswerTime), 2,
		topology.All(second, handshake, topology.Going(topology.Received))))
	exits.Want("the subflow to eth1", second, c.Server.Eth0, c.Server.Eth0.Peer().MAC)
	confirmed := topology.All(topology.To(c.Server.Eth1.Address(f)), topology.ToPort(p.port()), notHandshake)
	if came := exits.Came(c.Server.Eth1, confirmed); len(came) > 0 {
		t.Errorf("the client has heard of it: %s", harness.Describe(came))
	}
}

// wantBoth opens a connection to one NIC, and wants both of its subflows to be used and
// each to be answered by its own.
func (c multipath) wantBoth(t *testing.T, f topology.Family, to *topology.Interface) {
	exits := harness.TapAll(t, c.eth1.nics...)
	p := c.open(t, f, to)
	second := p.subflow(f, c.other(to))
	harness.Eventually(t, "the second subflow is used", func() error {
		p.goOn(t)
		for _, nic := range c.eth1.nics {
			if len(exits.Left(nic, topology.All(second, notHandshake))) > 0 {
				return nil
			}
		}
		return fmt.Errorf("it is not:\n%s", exits)
	})
	for range 10 {
		p.goOn(t)
	}
	for _, nic := range c.eth1.nics {
		exits.Want("the subflow to "+nic.Name, p.subflow(f, nic), nic, nic.Peer().MAC)
	}
}
