// SPDX-License-Identifier: Apache-2.0

package devices

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"replypath/test/await"
	"replypath/test/host"
	"replypath/test/product"
	"replypath/test/server"
	"replypath/test/topology"
	"replypath/test/traffic"
	"replypath/test/wire"
)

// virtualRouters has keepalived hold an address of each family on macvlans of eth0, with the MACs of their virtual routers.
const virtualRouters = `
global_defs {
	vrrp_version 3
}
vrrp_instance service4 {
	interface eth0
	virtual_router_id 51
	priority 200
	advert_int 0.1
	use_vmac vrrp4
	virtual_ipaddress {
		10.1.0.200/24
	}
}
vrrp_instance service6 {
	interface eth0
	virtual_router_id 51
	priority 200
	advert_int 0.1
	use_vmac vrrp6
	virtual_ipaddress {
		fe80::200/64
		2001:db8:1::200/64
	}
}
`

// above are what keepalived makes: the device, with its MAC (RFC 9568, 7.3), and the address.
var above = map[topology.Family]struct {
	name    string
	mac     net.HardwareAddr
	address netip.Addr
}{
	topology.IPv4: {"vrrp4", net.HardwareAddr{0, 0, 0x5e, 0, 1, 51}, netip.MustParseAddr("10.1.0.200")},
	topology.IPv6: {"vrrp6", net.HardwareAddr{0, 0, 0x5e, 0, 2, 51}, netip.MustParseAddr("2001:db8:1::200")},
}

// TestVirtualRouter has keepalived hold an address with a virtual MAC (use_vmac) by the NIC of the default route. What is asked
// through the gateway is answered with the MAC of the NIC, and with replypath with the virtual one, as is what is asked on
// the link.
func TestVirtualRouter(t *testing.T) {
	server.EachMechanism(t, func(t *testing.T, mechanism string) {
		n := traffic.NewTwoNIC(t, topology.TwoNICOptions{})
		await.Must(t, n.Server.SetSysctl("net/ipv4/conf/all/arp_ignore", "1")) // else the device of IPv6 answers for IPv4's address
		host.StartKeepalived(t, n.Server.Host, virtualRouters).WaitLog(2, "Entering MASTER STATE")
		for _, v := range above {
			product.AwaitAddress(t, await.Must1[*topology.Interface](t)(n.Server.Host.Interface(v.name)), v.address, true)
			traffic.Serve(t, n.Server.Host, v.address)
		}
		want := func(t *testing.T, from *topology.Interface, f topology.Family, kind traffic.Kind, mac net.HardwareAddr) *traffic.Conversation {
			t.Helper()
			eth0, wires := *n.Server.Eth0, wire.TapAll(t, n.Server.NICs()...)
			eth0.MAC = mac
			c := traffic.NewConversation(t, kind, from, above[f].address)
			traffic.AskSizes(t, c)
			wires.Want(c.String(), c.Answers(), &eth0, n.Server.Eth0.Peer().MAC)
			return c
		}
		traffic.EachQuestion(t, "without replypath", func(t *testing.T, f topology.Family, kind traffic.Kind) {
			want(t, n.ClientEth0, f, kind, n.Server.Eth0.MAC)
		})
		p := product.On(t, n.Server.Host)
		p.Start("--mechanism", mechanism)
		for _, v := range above {
			p.AwaitOwn(v.address, true, time.Now())
		}
		traffic.EachQuestion(t, "with replypath", func(t *testing.T, f topology.Family, kind traffic.Kind) {
			c := want(t, n.ClientEth0, f, kind, above[f].mac)
			by := []string{"from_interface=eth0", "to_interface=" + above[f].name, "protocol=" + c.Protocol()}
			m := p.In(t).Metrics()
			all, corrected := m.Sum("replypath_asymmetric_packets_total", by...), m.Sum("replypath_corrected_packets_total", by...)
			if all == 0 || all != corrected {
				t.Errorf("%v packets are asymmetric, %v corrected", all, corrected)
			}
			want(t, n.Server.Eth0.Peer(), f, kind, above[f].mac)
		})
		p.Expect(0, "mode", "observe")
		for _, f := range n.Families() {
			want(t, n.ClientEth0, f, traffic.TCP, n.Server.Eth0.MAC)
		}
	})
}
