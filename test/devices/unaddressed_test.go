// SPDX-License-Identifier: Apache-2.0

package devices

import (
	"net"
	"net/netip"
	"os"
	"strings"
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

// TestWithoutAddress has requests for eth0's address arrive by eth1, which has none, as load balancers of Kubernetes have
// nodes announce addresses. A macvlan stands for the NIC: it is managed without an address, as a NIC is, and a veth is not.
func TestWithoutAddress(t *testing.T) {
	server.EachMechanism(t, func(t *testing.T, mechanism string) {
		n := traffic.NewTwoNIC(t, topology.TwoNICOptions{Policy: topology.Stateful, Eth1: topology.MacvlanDevice})
		for _, f := range n.Families() {
			traffic.Serve(t, n.Server.Host, n.Server.Eth0.Address(f))
		}
		host.Shell(t, n.Server.Host, "ip -4 address flush dev eth1; ip -6 address flush dev eth1 scope global")
		linkLocal := strings.TrimSpace(host.Shell(t, n.Server.Host, "ip -6 -oneline address show dev eth1 scope link | awk '{ split($4, a, \"/\"); print a[1] }'"))
		host.Shell(t, n.Replication.Host, "ip route add 10.1.0.100/32 dev server; ip -6 route add 2001:db8:1::100/128 via "+linkLocal+" dev server")
		host.Shell(t, n.Core.Host, `
ip route add 10.1.0.100/32 $(ip route show 10.2.0.0/24 | grep -o 'via [^ ]* dev [^ ]*')
ip -6 route add 2001:db8:1::100/128 $(ip -6 route show 2001:db8:2::/64 | grep -o 'via [^ ]* dev [^ ]*')`)
		asked := func(kind traffic.Kind, f topology.Family) *traffic.Conversation {
			return traffic.NewConversation(t, kind, n.ClientEth0, n.Server.Eth0.Address(f))
		}
		traffic.EachQuestion(t, "without replypath", func(t *testing.T, f topology.Family, kind traffic.Kind) {
			if kind == traffic.UDP { // which the stateful router lets pass
				wire.WantBy(t, n.Server, asked(kind, f), false)
			} else {
				wire.WantLost(t, n.Server, asked(kind, f))
			}
		})
		p, _ := product.StartOn(t, n.Server.Host, "--mechanism", mechanism)
		traffic.EachQuestion(t, "with replypath", func(t *testing.T, f topology.Family, kind traffic.Kind) {
			wire.WantBy(t, n.Server, asked(kind, f), true)
		})
		if i := p.Status().Interface("eth1"); i == nil || i.Role != "records" {
			t.Errorf("eth1: %+v", i)
		}
	})
}

// TestRouterOnABridge has a virtual machine route for the host: eth1 is a bridge with no port but the machine's, by which a gateway
// is reached, or none yet. Then requests for other addresses that it brings go as routed, no setting is changed for it, and
// doctor tells of it until it is named. Where the host forwards for it, it is left alone.
func TestRouterOnABridge(t *testing.T) {
	server.EachMechanism(t, func(t *testing.T, mechanism string) {
		for _, metric := range []int{0, 2000} {
			n := traffic.NewTwoNIC(t, topology.TwoNICOptions{Policy: topology.StrictSource, Eth1: topology.BridgeDevice, Eth1Metric: metric})
			wantAllLost(t, n, n.Server)
			p, d := product.StartOn(t, n.Server.Host, "--mechanism", mechanism, "--config", product.WriteConfig(t, ""))
			wantAllByEth1(t, n, n.Server)
			if metric > 0 {
				continue
			}
			wantAsContainer(t, n)
			for _, flow := range p.Flows("--interface", "eth1") {
				if strings.HasPrefix(flow.Self, "10.1.") || strings.HasPrefix(flow.Self, "2001:db8:1:") {
					t.Errorf("recorded for eth0's address: %s", flow)
				}
			}
			wantNoted(t, p, d)
		}
	})
}

// wantAsContainer has eth1's only neighbour ask, as a container does, for the bridge's address and for that of eth0, which it reaches
// by the bridge.
func wantAsContainer(t *testing.T, n *topology.TwoNIC) {
	t.Helper()
	container := await.Must1[*topology.Interface](t)(n.Replication.Interface("server"))
	for _, f := range n.Families() {
		self := n.Server.Eth0.Address(f)
		traffic.Serve(t, n.Server.Host, self)
		await.Must(t, n.Replication.AddRoute(topology.Route{Destination: netip.PrefixFrom(self, self.BitLen()), Via: n.Server.Eth1.Address(f)}))
		for _, self := range []netip.Addr{self, n.Server.Eth1.Address(f)} {
			wire.WantByEth1(t, n.Server, traffic.NewConversation(t, traffic.TCP, container, self))
		}
	}
}

// wantNoted wants a bridge to be left as it is, and doctor to tell of it, until the configuration names it.
func wantNoted(t *testing.T, p *product.Product, d *product.Daemon) {
	t.Helper()
	for _, c := range p.Status().HostChanges {
		if strings.Contains(c.Object, "eth1") && !strings.Contains(c.Object, "qdisc") {
			t.Errorf("changed: %s", c.Object)
		}
	}
	if found := p.Doctor(0).Of("managed", "eth1"); len(found) > 0 {
		t.Errorf("doctor tells of a bridge whose requests are served: %+v", found)
	}
	p.Expect(0, "flows", "flush")
	if found := p.Doctor(0).Of("managed", "eth1").With("note", "its own addresses only", "{name: eth1}"); len(found) != 1 {
		t.Errorf("doctor does not tell of the bridge: %+v", found)
	}
	d.Reconfigure("interfaces: [{name: eth0}, {name: eth1}]\n")
	if found := p.Doctor(0).Of("managed", "eth1"); len(found) > 0 {
		t.Errorf("doctor tells of a bridge that is named: %+v", found)
	}
	d.Reconfigure("")
	await.Must(t, p.Host.SetSysctl("net/ipv4/ip_forward", "1"))
	await.Becomes(t, "the bridge", nil, func() *product.Interface { return p.Status().Interface("eth1") })
	if found := p.Doctor(0).Of("unnamed-tunnel", "eth1").With("note", "for which this host forwards", "{name: eth1}"); len(found) != 1 {
		t.Errorf("doctor does not tell of a bridge that is left alone: %+v", found)
	}
}

// virtual are the addresses on the dummy, which the router knows to be behind replication.
func virtual(f topology.Family) netip.Prefix {
	if f == topology.IPv4 {
		return netip.MustParsePrefix("10.96.0.10/32")
	}
	return netip.MustParsePrefix("2001:db8:96::10/128")
}

// TestDummyAddress asks addresses that only a dummy has. Their answers follow the
// routing table unless they are to be symmetric.
func TestDummyAddress(t *testing.T) {
	s := newSite(t, ethernet, ethernet)
	made[*topology.Interface](t, "dummy")(s.Server.AddDummy("dummy0", virtual(topology.IPv4), virtual(topology.IPv6)))
	await.Must(t, s.WaitReady(await.Within(t, await.AnswerTime)))
	for _, f := range traffic.Families {
		await.Must(t, s.Router.AddRoute(topology.Route{Destination: virtual(f), Via: s.Replication.Address(f)}))
		traffic.Serve(t, s.Server, virtual(f).Addr())
	}
	lost := func(t *testing.T, f topology.Family, kind traffic.Kind) {
		s.wantConversationLost(t, s.ask(t, kind, virtual(f).Addr()))
	}
	traffic.EachQuestion(t, "without replypath", lost)
	config := product.WriteConfig(t, "")
	d := product.On(t, s.Server).Start("--config", config)
	traffic.EachQuestion(t, "as the kernel routes", lost)
	await.Must(t, os.WriteFile(config, []byte("loopback_addresses: symmetric\n"), 0o600))
	d.Reload()
	traffic.EachQuestion(t, "symmetric", func(t *testing.T, f topology.Family, kind traffic.Kind) {
		s.wantAnswers(t, s.ask(t, kind, virtual(f).Addr()), s.Replication)
	})
}

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
		p, _ := product.StartOn(t, n.Server.Host, "--mechanism", mechanism)
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
