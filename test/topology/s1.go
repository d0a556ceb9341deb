// SPDX-License-Identifier: Apache-2.0

package topology

import "context"

// S1 is the network of two servers that replicate by their second interfaces:
//
//	            A                                      B
//	10.1.0.100 eth0 ── production router (10.x.0.1) ── eth0 10.3.0.100
//	                          │ 10.0.0.0/24
//	10.2.0.100 eth1 ── replication router (10.x.0.1) ─ eth1 10.4.0.100
//
// IPv6 has the same digits: 2001:db8:1::100/64 and so on. Each server's
// default route is by eth0; A, which opens the connections, has a static route
// to B's replication network by eth1. B has none back: what it answers to A
// from 10.4.0.100 goes by eth0 to the production router, where a source of
// B's replication network does not belong.
//
// The routers know the way to all four networks, by the link between them.
// They drop such an answer only because of their policy: with AnySource it
// reaches A.
type S1 struct {
	*Network
	A, B *Server
	// Production and Replication are the routers. Their end of the cable to B's eth0 is B.Eth0.Peer(), and so on.
	Production, Replication *Router
}

// S1Options are the variants of S1.
type S1Options struct {
	// Policy is that of both routers.
	Policy Policy
	// Offloads of all interfaces.
	Offloads Offloads
	// NoIPv6 leaves IPv6 out.
	NoIPv6 bool
	// NoStaticRoute leaves A's static route out.
	NoStaticRoute bool
}

// The networks of S1.
const (
	s1Transit      subnet = 0
	s1AProduction  subnet = 1
	s1AReplication subnet = 2
	s1BProduction  subnet = 3
	s1BReplication subnet = 4
)

// transitNumber is the replication router's number in the transit network; the production router's is gatewayNumber.
const transitNumber = 2

// NewS1 builds the network and waits until it is ready.
func NewS1(ctx context.Context, options S1Options) (*S1, error) {
	b := newBuilder(Options{NoIPv6: options.NoIPv6})
	s := &S1{Network: b.Network, A: b.server("a"), B: b.server("b")}
	s.Production, s.Replication = b.router("production", options.Policy), b.router("replication", options.Policy)
	for _, c := range []cable{
		{&s.A.Eth0, s1AProduction, s.A.Host, "eth0", serverNumber, s.Production, "a-eth0", 0, Cable},
		{&s.A.Eth1, s1AReplication, s.A.Host, "eth1", serverNumber, s.Replication, "a-eth1", 0, Cable},
		{&s.B.Eth0, s1BProduction, s.B.Host, "eth0", serverNumber, s.Production, "b-eth0", 0, Cable},
		{&s.B.Eth1, s1BReplication, s.B.Host, "eth1", serverNumber, s.Replication, "b-eth1", 0, Cable},
		{nil, s1Transit, s.Replication.Host, "transit", transitNumber, s.Production, "transit", 0, Cable},
	} {
		b.lay(c, options.Offloads)
	}
	// Each router knows the networks behind the other.
	b.permit(s.Production, "transit", s1AReplication, s1BReplication)
	b.permit(s.Replication, "transit", s1Transit, s1AProduction, s1BProduction)
	b.routeVia(s.Production.Host, s1Transit, transitNumber, s1AReplication, s1BReplication)
	b.routeVia(s.Replication.Host, s1Transit, gatewayNumber, s1AProduction, s1BProduction)
	b.defaultVia(s.A.Host, s1AProduction, 0)
	b.defaultVia(s.B.Host, s1BProduction, 0)
	if !options.NoStaticRoute {
		b.routeVia(s.A.Host, s1AReplication, gatewayNumber, s1BReplication)
	}
	return s, b.finish(ctx, "s1", &s.A.Eth0, &s.B.Eth0)
}
