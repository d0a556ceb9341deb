// SPDX-License-Identifier: Apache-2.0

package devices

import (
	"fmt"
	"net/netip"
	"testing"

	"replypath/test/await"
	"replypath/test/host"
	"replypath/test/product"
	"replypath/test/topology"
	"replypath/test/traffic"
	"replypath/test/wire"
)

// TestKinds has the server asked by a macvlan device, and by a bridge that has the NIC for a port.
func TestKinds(t *testing.T) {
	for _, device := range []topology.Device{topology.MacvlanDevice, topology.BridgeDevice} {
		t.Run(device.String(), func(t *testing.T) {
			n := traffic.NewTwoNIC(t, topology.TwoNICOptions{Policy: topology.StrictSource, Eth1: device})
			wantAllLost(t, n, n.Server)
			p := product.On(t, n.Server.Host)
			// A bridge whose ports are all veth is a container engine's, unless it is named.
			p.Start("--interface", "eth0", "--interface", "eth1")
			wantAllByEth1(t, n, n.Server)
			if i := p.Status().Interface("eth1"); i == nil || len(p.Status().Interfaces) != 2 {
				t.Errorf("managed: %+v", p.Status().Interfaces)
			}
		})
	}
}

// TestMacvlanBesideParent has both eth1 and a macvlan on it managed, each with an address, as keepalived's use_vmac
// makes them: the macvlan's answers pass eth1's programs as well, which leave them alone.
func TestMacvlanBesideParent(t *testing.T) {
	n := traffic.NewTwoNIC(t, topology.TwoNICOptions{Policy: topology.StrictSource})
	parent := n.Server.Eth1
	// Each answers for its own address only: what comes by the other's MAC is answered by it.
	await.Must(t, n.Server.SetSysctl("net/ipv4/conf/all/arp_ignore", "1"))
	var addresses []netip.Prefix
	for _, f := range n.Families() {
		length := 24
		if f == topology.IPv6 {
			length = 64
		}
		addresses = append(addresses, netip.PrefixFrom(parent.Address(f).Next(), length))
	}
	above := await.Must1[*topology.Interface](t)(parent.AddMacvlan("mv0", addresses...))
	await.Must(t, n.WaitReady(await.Within(t, await.AnswerTime)))
	macvlan := &topology.Server{Host: n.Server.Host, Eth0: n.Server.Eth0, Eth1: above}
	traffic.ServeNICs(t, above)
	wantAllLost(t, n, macvlan)
	p := product.On(t, n.Server.Host)
	p.Start()
	wantAllByEth1(t, n, macvlan)
	wantAllByEth1(t, n, n.Server)
	if managed := p.Status().Interfaces; len(managed) != 3 {
		t.Errorf("managed: %+v", managed)
	}
	// Where the route leads by eth1, a reply of mv0 leaves there, and explain says so.
	for _, f := range n.Families() {
		host.Shell(t, n.Server.Host, fmt.Sprintf("ip route add %s via %s dev eth1", n.ClientEth0.Address(f), parent.Gateway(f)))
		c := traffic.NewConversation(t, traffic.UDP, n.ClientEth0, above.Address(f))
		wires := wire.Tap(t, n.Server)
		traffic.Ask(t, c)
		e := p.Explain("--peer", c.Peer.String(), "--self", c.Self.String(), "--protocol", "udp")
		if e.Verdict != "already-right" || product.OrEmpty(e.LeavesBy) != "eth1" || product.OrEmpty(e.Replypath.Interface) != "mv0" {
			t.Errorf("by the route of its parent: %s", e)
		}
		traffic.Ask(t, c)
		wires.WantEth1("by the route of its parent", c.Answers())
	}
}
