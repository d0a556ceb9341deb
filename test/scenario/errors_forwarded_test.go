// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"replypath/test/await"
	testhost "replypath/test/host"
	"replypath/test/product"
	"replypath/test/topology"
	"replypath/test/traffic"
	"replypath/test/wire"
)

// Where the packets of forwardedInVain go.
var (
	beyond     = addresses("10.77.0.1", "2001:db8:77::1")
	nowhere    = addresses("10.78.0.1", "2001:db8:78::1")
	prohibited = addresses("10.79.0.1", "2001:db8:79::1")
)

// forwardedInVain are packets to somebody else that a router answers with errors.
var forwardedInVain = []struct {
	provocation
	to map[topology.Family]netip.Addr
}{
	{provocation{"time exceeded", kinds(kind{11, 0}, kind{3, 0}), func(ip gopacket.NetworkLayer, mark gopacket.Payload) packet {
		switch header := ip.(type) {
		case *layers.IPv4:
			header.TTL = 1
		case *layers.IPv6:
			header.HopLimit = 1
		}
		return packet{withProtocol(ip, layers.IPProtocolUDP), udpTo(ip, 53), mark}
	}}, beyond},
	{provocation{"too large", kinds(kind{3, 4}, kind{2, 0}), func(ip gopacket.NetworkLayer, mark gopacket.Payload) packet {
		if header, ok := ip.(*layers.IPv4); ok {
			header.Flags = layers.IPv4DontFragment
		}
		return packet{withProtocol(ip, layers.IPProtocolTCP), tcpTo(ip, layers.TCP{ACK: true}), append(mark, make([]byte, 1400)...)}
	}}, beyond},
	{provocation{"no route", kinds(kind{3, 1}, kind{1, 0}), func(ip gopacket.NetworkLayer, mark gopacket.Payload) packet {
		return packet{withProtocol(ip, layers.IPProtocolTCP), tcpTo(ip, layers.TCP{SYN: true}), mark}
	}}, nowhere},
	{provocation{"prohibited", kinds(kind{3, 13}, kind{1, 1}), func(ip gopacket.NetworkLayer, mark gopacket.Payload) packet {
		return packet{withProtocol(ip, layers.IPProtocolUDP), udpTo(ip, 53), mark}
	}}, prohibited},
}

// forwarding has a host forward both families, and forbids some of the ways.
func forwarding(t *testing.T, host *topology.Host) {
	t.Helper()
	promptErrors(t, host)
	await.Must(t, host.SetSysctl("net/ipv4/ip_forward", "1"))
	await.Must(t, host.SetSysctl("net/ipv6/conf/all/forwarding", "1"))
	for _, f := range traffic.Families {
		for route, to := range map[string]netip.Addr{"unreachable": nowhere[f], "prohibit": prohibited[f]} {
			testhost.Shell(t, host, fmt.Sprintf("ip route add %s %s", route, to))
		}
	}
}

// TestErrorsAboutForwarded has a server answer with errors what it was to forward, as a traceroute wants to
// hear. They leave as routed, and with `scope: all` by the NIC of the packet, whatever address they come from.
func TestErrorsAboutForwarded(t *testing.T) {
	n := traffic.NewTwoNIC(t, topology.TwoNICOptions{Policy: topology.StrictSource, ProductionMTU: 1400})
	forwarding(t, n.Server.Host)
	ask := func(eth1 bool) (frames []*topology.Frame) {
		for _, inbound := range []string{"0", "1"} {
			await.Must(t, n.Server.SetSysctl("net/ipv4/icmp_errors_use_inbound_ifaddr", inbound))
			for _, p := range forwardedInVain {
				if inbound == "1" && p.name != "time exceeded" {
					continue // the kernel sends a peer few of these (ip_error() in net/ipv4/route.c)
				}
				frames = append(frames, provoke(t, n.Server, addressesOf(n.ClientEth0), p.to, []provocation{p.provocation}, eth1)...)
			}
		}
		return frames
	}
	p := product.On(t, n.Server.Host)
	config := product.WriteConfig(t, "scope: local\n")
	d := p.Start("--config", config)
	ask(false)
	if flows := p.Flows(); len(flows) > 0 {
		t.Errorf("forwarded packets became the flows %v", flows)
	}
	reload(t, d, config, "scope: all\n")
	before := countedBy(p)
	wantCounted(t, p, before, ask(true), true)
}

// TestRedirectStays has a server with two NICs in one subnet forward what came in by
// eth1 to a router there, and tell the sender of the short cut: such a redirect is
// no answer, and stays where the kernel sends it, unlike an error to the same sender.
func TestRedirectStays(t *testing.T) {
	s := traffic.Build(t, topology.NewS5)
	forwarding(t, s.Server.Host)
	for _, f := range traffic.Families {
		via := s.RouterInside.Address(f)
		if f == topology.IPv6 { // redirects name no other (RFC 4861, 8.2)
			via = linkLocalOf(t, s.RouterInside)
		}
		testhost.Shell(t, s.Server.Host, fmt.Sprintf("ip route add %s via %s dev eth1", beyond[f], via))
	}
	injector := traffic.NewInjector(t, s.NeighbourEth0)
	// The kernel forgets to whom it has sent one: it sends few.
	ask := func(f topology.Family, p provocation, by *topology.Interface) {
		t.Helper()
		exits := wire.TapAll(t, s.Server.Eth0, s.Server.Eth1)
		injector.Send(p.frame(s.NeighbourEth0.MAC, s.Server.Eth1.MAC, s.NeighbourEth0.Address(f), beyond[f])...)
		await.Eventually(t, p.name+" is answered", func() error {
			if len(exits.Left(s.Server.Eth0, p.answer(f)))+len(exits.Left(s.Server.Eth1, p.answer(f))) == 0 {
				return fmt.Errorf("captured:\n%s", exits)
			}
			return nil
		})
		exits.Want(fmt.Sprintf("%s, %s", p.name, f), p.answer(f), by, s.NeighbourEth0.MAC)
	}
	shortCut := provocation{"short cut", kinds(kind{5, 1}, kind{137, 0}), answeredWithErrors[0].packet}
	// IPv6 sends redirects by the interface that the packet came in by.
	redirectedBy := map[topology.Family]*topology.Interface{topology.IPv4: s.Server.Eth0, topology.IPv6: s.Server.Eth1}
	want := func(errorBy *topology.Interface) {
		t.Helper()
		for _, f := range traffic.Families {
			ask(f, shortCut, redirectedBy[f])
			ask(f, forwardedInVain[0].provocation, errorBy)
		}
	}
	want(s.Server.Eth0)
	product.On(t, s.Server.Host).Start("--config", product.WriteConfig(t, "scope: all\n"))
	want(s.Server.Eth1)
}
