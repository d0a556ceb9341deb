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
	// ProductionMTU and ReplicationMTU are those of the four networks' cables on either side, in bytes; 0 is 1500.
	ProductionMTU, ReplicationMTU int
	// Offloads of all interfaces on those cables.
	Offloads Offloads
	// NoIPv6 leaves IPv6 out.
	NoIPv6 bool
	// NoStaticRoute leaves A's static route out.
	NoStaticRoute bool
	// ColdGateways leaves it to the first packet to resolve the gateways of eth0, which servers in use always know: see
	// Interface.Resolve.
	ColdGateways bool
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
	s := &S1{Network: New(Options{NoIPv6: options.NoIPv6})}
	for _, step := range []func() error{
		func() error { return s.addHosts(options.Policy) },
		func() error { return s.layCables(options) },
		s.connectRouters,
		func() error { return s.addRoutes(options) },
		func() error { return s.WaitReady(ctx) },
		func() error { return s.warm(ctx, !options.ColdGateways, s.A.Eth0, s.B.Eth0) },
	} {
		if err := step(); err != nil {
			return nil, s.closeAfter("build network s1", err)
		}
	}
	return s, nil
}

// ReplicationRoute returns the route that would make B answer right without replypath: to A's replication network by
// B's eth1.
func (s *S1) ReplicationRoute(f Family) Route {
	return Route{Destination: s1AReplication.prefix(f), Via: s.B.Eth1.Gateway(f)}
}

func (s *S1) addHosts(policy Policy) error {
	var err error
	if s.A, err = s.server("a"); err != nil {
		return err
	}
	if s.B, err = s.server("b"); err != nil {
		return err
	}
	if s.Production, err = s.Router("production", policy); err != nil {
		return err
	}
	s.Replication, err = s.Router("replication", policy)
	return err
}

// server makes a server without interfaces.
func (n *Network) server(name string) (*Server, error) {
	h, err := n.Host(name)
	return &Server{Host: h}, err
}

func (s *S1) layCables(options S1Options) error {
	for _, c := range []struct {
		to **Interface
		cable
	}{
		{&s.A.Eth0, cable{subnet: s1AProduction, host: s.A.Host, name: "eth0", router: s.Production, routerName: "a-eth0", mtu: options.ProductionMTU}},
		{&s.A.Eth1, cable{subnet: s1AReplication, host: s.A.Host, name: "eth1", router: s.Replication, routerName: "a-eth1", mtu: options.ReplicationMTU}},
		{&s.B.Eth0, cable{subnet: s1BProduction, host: s.B.Host, name: "eth0", router: s.Production, routerName: "b-eth0", mtu: options.ProductionMTU}},
		{&s.B.Eth1, cable{subnet: s1BReplication, host: s.B.Host, name: "eth1", router: s.Replication, routerName: "b-eth1", mtu: options.ReplicationMTU}},
	} {
		c.number, c.offloads = serverNumber, options.Offloads
		var err error
		if *c.to, err = s.lay(c.cable); err != nil {
			return err
		}
	}
	return nil
}

// connectRouters joins the routers, so that each knows the networks behind the other.
func (s *S1) connectRouters() error {
	const name = "transit"
	_, err := s.lay(cable{
		subnet: s1Transit, host: s.Replication.Host, name: name, number: transitNumber,
		router: s.Production, routerName: name,
	})
	if err != nil {
		return err
	}
	if err := s.permitSubnets(s.Production, name, s1AReplication, s1BReplication); err != nil {
		return err
	}
	if err := s.permitSubnets(s.Replication, name, s1Transit, s1AProduction, s1BProduction); err != nil {
		return err
	}
	if err := s.routeVia(s.Production.Host, s1Transit, transitNumber, s1AReplication, s1BReplication); err != nil {
		return err
	}
	return s.routeVia(s.Replication.Host, s1Transit, gatewayNumber, s1AProduction, s1BProduction)
}

func (s *S1) addRoutes(options S1Options) error {
	if err := s.defaultVia(s.A.Host, s1AProduction, gatewayNumber, 0); err != nil {
		return err
	}
	if err := s.defaultVia(s.B.Host, s1BProduction, gatewayNumber, 0); err != nil {
		return err
	}
	if options.NoStaticRoute {
		return nil
	}
	return s.routeVia(s.A.Host, s1AReplication, gatewayNumber, s1BReplication)
}
