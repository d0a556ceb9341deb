// SPDX-License-Identifier: Apache-2.0

package topology

import (
	"context"
	"net/netip"
)

// S2 is the network of a load balancer that translates addresses (LVS-NAT and
// many appliances), with its real server and a client in one subnet:
//
//	                         balancer, 10.0.0.1 virtual
//	outside 10.9.0.100 ── 10.9.0.1 eth1   eth0 192.168.1.1 ─┐
//	                       client 192.168.1.55 eth0 ────────┤ switch
//	                       server 192.168.1.200 eth0 ───────┘
//
// IPv6 has 2001:db8:1::/64 for the switch's subnet, 2001:db8:9::/64 for the
// outside and 2001:db8::1 for the virtual address; the last digits are the same.
//
// The default route of the client and of the server is the balancer, which
// forwards and answers pings. Its translation is left to the caller.
type S2 struct {
	*Network
	Balancer                *Router
	Server, Client, Outside *Host
	// ServerEth0 and so on are the interfaces. The Peer of those in the subnet is a port of the switch.
	ServerEth0, ClientEth0, BalancerEth0, OutsideEth0 *Interface
}

// NewS2 builds the network and waits until it is ready.
func NewS2(ctx context.Context) (*S2, error) {
	b := newBuilder(Options{})
	s := &S2{Network: b.Network, Server: b.host("server"), Client: b.host("client"), Outside: b.host("outside")}
	s.Balancer = b.router("balancer", AnySource)
	b.loopback(s.Balancer.Host, "10.0.0.1/32", "2001:db8::1/128")
	b.plug("lan",
		end{&s.BalancerEth0, s.Balancer.Host, "eth0", "192.168.1.1/24", "2001:db8:1::1/64"},
		end{&s.ClientEth0, s.Client, "eth0", "192.168.1.55/24", "2001:db8:1::55/64"},
		end{&s.ServerEth0, s.Server, "eth0", "192.168.1.200/24", "2001:db8:1::200/64"})
	b.join(
		end{&s.OutsideEth0, s.Outside, "eth0", "10.9.0.100/24", "2001:db8:9::100/64"},
		end{nil, s.Balancer.Host, "eth1", "10.9.0.1/24", "2001:db8:9::1/64"})
	b.routes(s.Server, "192.168.1.1", "2001:db8:1::1")
	b.routes(s.Client, "192.168.1.1", "2001:db8:1::1")
	b.routes(s.Outside, "10.9.0.1", "2001:db8:9::1")
	return s, b.finish(ctx, "s2")
}

// Virtual returns the balancer's virtual address.
func (s *S2) Virtual(f Family) netip.Addr { return inFamily(f, "10.0.0.1", "2001:db8::1") }
