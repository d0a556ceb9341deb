package devices

import (
	"net/netip"
	"testing"

	"replypath/test/harness"
	"replypath/test/topology"
)

// TestKinds has the server asked by a macvlan device, and by a bridge that has the
// NIC for a port.
func TestKinds(t *testing.T) {
	for _, device := range []topology.Device{topology.MacvlanDevice, topology.BridgeDevice} {
		t.Run(device.String(), func(t *testing.T) {
			n := harness.NewTwoNIC(t, topology.TwoNICOptions{Policy: topology.StrictSource, Eth1: device})
			conversation := func(f topology.Family, kind harness.Kind) *harness.Conversation {
				return harness.NewConversation(t, kind, n.ClientEth0, n.Server.Eth1.Address(f))
			}
			harness.EachQuestion(t, "without replypath", func(t *testing.T, f topology.Family, kind harness.Kind) {
				harness.WantLost(t, n.Server, conversation(f, kind))
			})
			p := harness.On(t, n.Server.Host)
			// A bridge whose ports are all veth is a container engine's, unless it is named.
			p.Start("--interface", "eth0", "--interface", "eth1")
			harness.EachQuestion(t, "with replypath", func(t *testing.T, f topology.Family, kind harness.Kind) {
				harness.WantByEth1(t, n.Server, conversation(f, kind))
			})
			if i := p.Status().Interface("eth1"); i == nil || len(p.Status().Interfaces) != 2 {
				t.Errorf("managed: %+v", p.Status().Interfaces)
			}
		})
	}
}

// The overlay network of TestTunnel.
var overlay = map[topology.Family][2]netip.Prefix{
	topology.IPv4: {netip.MustParsePrefix("10.40.0.1/24"), netip.MustParsePrefix("10.40.0.100/24")},
	topology.IPv6: {netip.MustParsePrefix("2001:db8:40::1/64"), netip.MustParsePrefix("2001:db8:40::100/64")},
}

// newTunnel lays a VXLAN tunnel over eth1's network, from the replication router
// to the server, and has the client's way to the server's overlay address lead
// through it.
func newTunnel(t *testing.T, outer topology.Family) (*topology.TwoNIC, *topology.Server) {
	t.Helper()
	n := harness.NewTwoNIC(t, topology.TwoNICOptions{Policy: topology.StrictSource})
	v := topology.VXLAN{Name: "vxlan7", ID: 7}
	gateway, server := v, v
	gateway.Local, gateway.Remote = n.Server.Eth1.Gateway(outer), n.Server.Eth1.Address(outer)
	server.Local, server.Remote = gateway.Remote, gateway.Local
	for _, f := range n.Families() {
		gateway.Addresses = append(gateway.Addresses, overlay[f][0])
		server.Addresses = append(server.Addresses, overlay[f][1])
	}
	end, _, err := n.Tunnel(n.Server.Host, server, n.Replication.Host, gateway)
	harness.Must(t, err)
	harness.Must(t, n.WaitReady(harness.Within(t, harness.AnswerTime)))
	for _, f := range n.Families() {
		core, err := n.Replication.Interface("core")
		harness.Must(t, err)
		harness.Must(t, n.Core.AddRoute(topology.Route{Destination: overlay[f][0].Masked(), Via: core.Address(f)}))
		harness.Serve(t, n.Server.Host, end.Address(f))
	}
	return n, &topology.Server{Host: n.Server.Host, Eth0: n.Server.Eth0, Eth1: end}
}

// TestTunnel has the server asked through a tunnel that is carried over a managed
// NIC: the answer goes into the tunnel, and what carries it where the routing
// table says.
func TestTunnel(t *testing.T) {
	for _, outer := range []topology.Family{topology.IPv4, topology.IPv6} {
		t.Run("over "+outer.String(), func(t *testing.T) {
			n, tunnel := newTunnel(t, outer)
			conversation := func(f topology.Family, kind harness.Kind) *harness.Conversation {
				return harness.NewConversation(t, kind, n.ClientEth0, tunnel.Eth1.Address(f))
			}
			harness.EachQuestion(t, "without replypath", func(t *testing.T, f topology.Family, kind harness.Kind) {
				harness.WantLost(t, tunnel, conversation(f, kind))
			})
			harness.On(t, n.Server.Host).Start()
			wires := harness.Tap(t, n.Server)
			harness.EachQuestion(t, "with replypath", func(t *testing.T, f topology.Family, kind harness.Kind) {
				harness.WantByEth1(t, tunnel, conversation(f, kind))
			})
			wires.WantEth1("what carries the answers", topology.All(
				topology.UDP, topology.From(n.Server.Eth1.Address(outer)), topology.To(n.Server.Eth1.Gateway(outer))))
			for _, f := range n.Families() {
				harness.WantByEth1(t, n.Server, harness.NewConversation(t, harness.TCP, n.ClientEth0, n.Server.Eth1.Address(f)))
			}
		})
	}
}

// TestMacvlanBesideParent has both eth1 and a macvlan on it managed, each with an
// address, as keepalived's use_vmac makes them: the macvlan's answers pass eth1's
// programs as well, which leave them alone.
func TestMacvlanBesideParent(t *testing.T) {
	n := harness.NewTwoNIC(t, topology.TwoNICOptions{Policy: topology.StrictSource})
	parent := n.Server.Eth1
	// Each answers for its own address only: what comes by the other's MAC is answered by it.
	harness.Must(t, n.Server.SetSysctl("net/ipv4/conf/all/arp_ignore", "1"))
	var addresses []netip.Prefix
	for _, f := range n.Families() {
		length := 24
		if f == topology.IPv6 {
			length = 64
		}
		addresses = append(addresses, netip.PrefixFrom(parent.Address(f).Next(), length))
	}
	above := harness.Must1[*topology.Interface](t)(parent.AddMacvlan("mv0", addresses...))
	harness.Must(t, n.WaitReady(harness.Within(t, harness.AnswerTime)))
	macvlan := &topology.Server{Host: n.Server.Host, Eth0: n.Server.Eth0, Eth1: above}
	for _, f := range n.Families() {
		harness.Serve(t, n.Server.Host, above.Address(f))
	}
	conversation := func(f topology.Family, kind harness.Kind) *harness.Conversation {
		return harness.NewConversation(t, kind, n.ClientEth0, above.Address(f))
	}
	harness.EachQuestion(t, "without replypath", func(t *testing.T, f topology.Family, kind harness.Kind) {
		harness.WantLost(t, macvlan, conversation(f, kind))
	})
	p := harness.On(t, n.Server.Host)
	p.Start()
	harness.EachQuestion(t, "with replypath", func(t *testing.T, f topology.Family, kind harness.Kind) {
		harness.WantByEth1(t, macvlan, conversation(f, kind))
		harness.WantByEth1(t, n.Server, harness.NewConversation(t, kind, n.ClientEth0, parent.Address(f)))
	})
	if managed := p.Status().Interfaces; len(managed) != 3 {
		t.Errorf("managed: %+v", managed)
	}
}
