// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"replypath/test/harness"
	"replypath/test/topology"
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
	{provocation{"time exceeded", kinds(kind{11, 0}, kind{3, 0}), func(ip gopacket.NetworkLayer, mark gopacket.Payload) []gopacket.SerializableLayer {
		switch header := ip.(type) {
		case *layers.IPv4:
			header.TTL = 1
		case *layers.IPv6:
			header.HopLimit = 1
		}
		return []gopacket.SerializableLayer{withProtocol(ip, layers.IPProtocolUDP), udpTo(ip, 53), mark}
	}}, beyond},
	{provocation{"too large", kinds(kind{3, 4}, kind{2, 0}), func(ip gopacket.NetworkLayer, mark gopacket.Payload) []gopacket.SerializableLayer {
		if header, ok := ip.(*layers.IPv4); ok {
			header.Flags = layers.IPv4DontFragment
		}
		return []gopacket.SerializableLayer{withProtocol(ip, layers.IPProtocolTCP), tcpTo(ip, layers.TCP{ACK: true}), append(mark, make([]byte, 1400)...)}
	}}, beyond},
	{provocation{"no route", kinds(kind{3, 1}, kind{1, 0}), func(ip gopacket.NetworkLayer, mark gopacket.Payload) []gopacket.SerializableLayer {
		return []gopacket.SerializableLayer{withProtocol(ip, layers.IPProtocolTCP), tcpTo(ip, layers.TCP{SYN: true}), mark}
	}}, nowhere},
	{provocation{"prohibited", kinds(kind{3, 13}, kind{1, 1}), func(ip gopacket.NetworkLayer, mark gopacket.Payload) []gopacket.SerializableLayer {
		return []gopacket.SerializableLayer{withProtocol(ip, layers.IPProtocolUDP), udpTo(ip, 53), mark}
	}}, prohibited},
}

// forwarding has a host forward both families, and forbids some of the ways.
func forwarding(t *testing.T, host *topology.Host) {
	t.Helper()
	promptErrors(t, host)
	harness.Must(t, host.SetSysctl("net/ipv4/ip_forward", "1"))
	harness.Must(t, host.SetSysctl("net/ipv6/conf/all/forwarding", "1"))
	for _, f := range harness.Families {
		for route, to := range map[string]netip.Addr{"unreachable": nowhere[f], "prohibit": prohibited[f]} {
			harness.Shell(t, host, fmt.Sprintf("ip route add %s %s", route, to))
		}
	}
}

// TestErrorsAboutForwarded has a server answer with errors what it was to forward. That a packet has no
// hop left, as a traceroute wants to hear, leaves by the NIC of the packet, whatever address it comes
// from; all other errors only with `scope: all`.
func TestErrorsAboutForwarded(t *testing.T) {
	n := harness.NewTwoNIC(t, topology.TwoNICOptions{Policy: topology.StrictSource, ProductionMTU: 1400})
	forwarding(t, n.Server.Host)
	ask := func(eth1 func(name string) bool) (moved []*topology.Frame) {
		for _, inbound := range []string{"0", "1"} {
			harness.Must(t, n.Server.SetSysctl("net/ipv4/icmp_errors_use_inbound_ifaddr", inbound))
			for _, p := range forwardedInVain {
				if inbound == "1" && p.name != "time exceeded" {
					continue // the kernel sends a peer few of these (ip_error() in net/ipv4/route.c)
				}
				one := []provocation{p.provocation}
				frames := errorsBy(provoke(t, n.Server, addressesOf(n.ClientEth0), p.to, one), eth1(p.name), one)
				if eth1(p.name) {
					moved = append(moved, frames...)
				}
			}
		}
		return moved
	}
	ask(func(string) bool { return false })

	p := harness.On(t, n.Server.Host)
	p.Start()
	before := countedBy(p)
	wantCounted(t, p, before, ask(func(name string) bool { return name == "time exceeded" }), true)
	if flows := p.Flows(); len(flows) > 0 {
		t.Errorf("forwarded packets became the flows %v", flows)
	}
	p.Expect(0, "detach", "--stop")

	p.Start("--config", harness.WriteConfig(t, "scope: all\n"))
	before = countedBy(p)
	wantCounted(t, p, before, ask(func(string) bool { return true }), true)
}

// TestRedirectStays has a server with two NICs in one subnet forward what came in by
// eth1 to a router there, and tell the sender of the short cut: such a redirect is
// no answer, and stays where the kernel sends it, unlike an error to the same sender.
func TestRedirectStays(t *testing.T) {
	s := harness.Build(t, topology.NewS5)
	forwarding(t, s.Server.Host)
	for _, f := range harness.Families {
		via := s.RouterInside.Address(f)
		if f == topology.IPv6 { // redirects name no other (RFC 4861, 8.2)
			via = linkLocal(t, s.RouterInside)
		}
		harness.Shell(t, s.Server.Host, fmt.Sprintf("ip route add %s via %s dev eth1", beyond[f], via))
	}
	injector := harness.NewInjector(t, s.NeighbourEth0)
	// The kernel forgets to whom it has sent one: it sends few.
	ask := func(f topology.Family, p provocation, answer kind) (*harness.Exits, topology.Filter) {
		exits := harness.TapAll(t, s.Server.Eth0, s.Server.Eth1)
		match := topology.All(icmpOf(f, answer), quoting(p.mark(f)))
		injector.Send(p.frame(s.NeighbourEth0.MAC, s.Server.Eth1.MAC, s.NeighbourEth0.Address(f), beyond[f])...)
		harness.Eventually(t, p.name+" is answered", func() error {
			for _, nic := range []*topology.Interface{s.Server.Eth0, s.Server.Eth1} {
				if len(exits.Left(nic, match)) > 0 {
					return nil
				}
			}
			return fmt.Errorf("captured:\n%s", exits)
		})
		return exits, match
	}
	shortCut := provocation{"short cut", kinds(kind{5, 1}, kind{137, 0}), answeredWithErrors[0].packet}
	// IPv6 sends redirects by the interface that the packet came in by.
	redirectedBy := map[topology.Family]*topology.Interface{topology.IPv4: s.Server.Eth0, topology.IPv6: s.Server.Eth1}
	want := func(when string, errorBy *topology.Interface) {
		for _, f := range harness.Families {
			for _, one := range []struct {
				provocation
				by *topology.Interface
			}{{shortCut, redirectedBy[f]}, {forwardedInVain[0].provocation, errorBy}} {
				exits, match := ask(f, one.provocation, one.error[f])
				exits.Want(fmt.Sprintf("%s, %s, %s", when, one.name, f), match, one.by, s.NeighbourEth0.MAC)
			}
		}
	}
	want("without replypath", s.Server.Eth0)
	harness.On(t, s.Server.Host).Start("--config", harness.WriteConfig(t, "scope: all\n"))
	want("with replypath", s.Server.Eth1)
}

// linkLocal returns the link-local address of an interface.
func linkLocal(t *testing.T, i *topology.Interface) netip.Addr {
	t.Helper()
	for _, address := range harness.Must1[*topology.Interface](t)(i.Host.Interface(i.Name)).Addresses {
		if address.Addr().IsLinkLocalUnicast() {
			return address.Addr()
		}
	}
	t.Fatalf("%s has no link-local address", i.Name)
	return netip.Addr{}
}
