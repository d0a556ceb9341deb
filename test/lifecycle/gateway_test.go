// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"fmt"
	"net"
	"net/netip"
	"testing"

	"replypath/test/harness"
	"replypath/test/topology"
)

// TestGatewayChangesMAC replaces eth1's gateway by another machine with the same
// address, which says so as routers do. A connection is taken along without a
// word from its peer.
func TestGatewayChangesMAC(t *testing.T) {
	for _, f := range []topology.Family{topology.IPv4, topology.IPv6} {
		t.Run(f.String(), func(t *testing.T) { testGatewayChangesMAC(t, f) })
	}
}

func testGatewayChangesMAC(t *testing.T, f topology.Family) {
	// A second default makes the gateway a known one.
	n := harness.NewTwoNIC(t, topology.TwoNICOptions{Policy: topology.AnySource, Eth1Metric: 5000})
	p := harness.On(t, n.Server.Host)
	p.Start()
	router := n.Server.Eth1.Peer()
	pushed := newPush(t, n, f)
	pushed.Speak()
	before := pushed.lastMAC()
	for _, key := range []string{"net/ipv4/conf/server/arp_notify", "net/ipv6/conf/server/ndisc_notify"} {
		harness.Must(t, n.Replication.SetSysctl(key, "1"))
	}
	replacement := net.HardwareAddr{2, 0, 0, 0, 0xfe, 1}
	harness.Must(t, router.SetMAC(replacement))
	if before.String() != router.MAC.String() {
		t.Errorf("before, frames went to %s, not to %s", before, router.MAC)
	}
	waitGateway(t, p, router.Address(f), replacement)
	pushed.Speak()
	if mac := pushed.lastMAC(); mac.String() != replacement.String() {
		t.Errorf("frames go to %s, not to %s", mac, replacement)
	}
}

// TestLateGateway names a gateway outside eth1's networks: a warning, and it is
// one as soon as eth1 has an address there.
func TestLateGateway(t *testing.T) {
	n := newServer(t)
	p := harness.On(t, n.Server.Host)
	gateway, own := netip.MustParsePrefix("10.2.1.1/24"), netip.MustParsePrefix("10.2.1.100/24")
	config := newConfig(t, fmt.Sprintf("interfaces: [{name: eth0}, {name: eth1, gateways: [%s]}]\n", gateway.Addr()))
	d := p.Start("--config", config.path)
	d.WaitLog(1, "level=WARN", gateway.Addr().String())
	harness.WantBy(t, n.Server, conversation(t, n, harness.TCP, topology.IPv4), true)
	router := n.Server.Eth1.Peer()
	harness.Must(t, router.AddAddress(gateway))
	harness.Must(t, n.Server.Eth1.AddAddress(own))
	waitGateway(t, p, gateway.Addr(), router.MAC)
	if s := p.Status(); len(s.Errors) > 0 {
		t.Errorf("errors in the status: %q", s.Errors)
	}
}

// waitGateway returns when the status shows the gateway with a MAC.
func waitGateway(t *testing.T, p *harness.Product, address netip.Addr, mac net.HardwareAddr) {
	t.Helper()
	harness.Eventually(t, "the gateway has its new mac", func() error {
		for _, g := range p.Status().Interface("eth1").Gateways {
			if g.Address == address.String() && g.MAC != nil && *g.MAC == mac.String() {
				return nil
			}
		}
		return fmt.Errorf("gateways %+v", p.Status().Interface("eth1").Gateways)
	})
}
