// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"fmt"
	"net"
	"net/netip"
	"testing"

	"replypath/test/await"
	"replypath/test/host"
	"replypath/test/topology"
	"replypath/test/wire"
)

// openMultipath opens a connection to the address of one NIC. As the server names that of the other, the client opens a
// second subflow to it.
func (c corners) openMultipath(t *testing.T, f topology.Family, to, named *topology.Interface) *pair {
	t.Helper()
	host.Shell(t, c.Server.Host, fmt.Sprintf("ip mptcp endpoint flush; ip mptcp endpoint add %s dev %s signal", named.Address(f), named.Name))
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

// wantNoSecondSubflow opens a connection to eth0. The subflow to eth1 is answered by eth0, and
// never gets beyond its handshake.
func (c corners) wantNoSecondSubflow(t *testing.T, f topology.Family) {
	exits := wire.TapAll(t, c.eth1.nics...)
	p := c.openMultipath(t, f, c.Server.Eth0, c.Server.Eth1)
	second := p.subflow(f, c.Server.Eth1)
	// The kernel answers once more when it hears nothing.
	await.Must1[[]*topology.Frame](t)(exits.At(c.Server.Eth0).WaitCount(await.Within(t, await.AnswerTime), 2,
		topology.All(second, handshake, topology.Going(topology.Received))))
	exits.Want("the subflow to eth1", second, c.Server.Eth0, c.Server.Eth0.Peer().MAC)
	confirmed := topology.All(topology.To(c.Server.Eth1.Address(f)), topology.ToPort(p.port()), notHandshake)
	if came := exits.Came(c.Server.Eth1, confirmed); len(came) > 0 {
		t.Errorf("the client has heard of it: %s", wire.Describe(came))
	}
}

// wantSecondSubflow opens a connection to either NIC, and wants both of its subflows to be used and
// each to be answered by its own.
func (c corners) wantSecondSubflow(t *testing.T, f topology.Family) {
	for to, named := range map[*topology.Interface]*topology.Interface{c.Server.Eth0: c.Server.Eth1, c.Server.Eth1: c.Server.Eth0} {
		exits := wire.TapAll(t, c.eth1.nics...)
		p := c.openMultipath(t, f, to, named)
		await.Eventually(t, "the second subflow is used", func() error {
			p.goOn(t)
			for _, nic := range c.eth1.nics {
				if len(exits.Left(nic, topology.All(p.subflow(f, named), notHandshake))) > 0 {
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
}
