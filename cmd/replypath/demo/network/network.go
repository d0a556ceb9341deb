// SPDX-License-Identifier: Apache-2.0

// Package network builds the network of the demo: two servers and two routers, each with namespaces of its own.
//
// The namespaces have no name on the host. Descriptors, sockets and processes hold them, so that they vanish with this
// process, also when it is killed.
package network

import (
	"context"
	"errors"
	"fmt"
)

// Network is that of two servers that replicate by their second interfaces:
//
//	            A                                      B
//	10.1.0.100 eth0 ── production router (10.x.0.1) ── eth0 10.3.0.100
//	                          │ 10.0.0.0/24
//	10.2.0.100 eth1 ── replication router (10.x.0.1) ─ eth1 10.4.0.100
//
// IPv6 has the same digits: 2001:db8:1::100/64 and so on. Each server's default route is by eth0; A has a static route
// to B's replication network by eth1. B has none back: what it answers to A from 10.4.0.100 goes by eth0 to the
// production router, where a source of B's replication network does not belong.
//
// The routers know the way to all four networks, by the link between them. They drop such an answer only because they
// check sources.
type Network struct {
	A, B       *Server
	hosts      []*Host
	production *Host
}

// Server is a host with a production and a replication interface.
type Server struct {
	*Host
	Eth0, Eth1 *Interface
}

// New builds the network and waits until it is ready. With strict, routers drop what comes in on the wrong side.
func New(ctx context.Context, strict bool) (*Network, error) {
	n := new(Network)
	if err := n.build(ctx, strict); err != nil {
		return nil, errors.Join(fmt.Errorf("build the network: %w", err), n.Close())
	}
	return n, nil
}

// Close gives the namespaces up. The kernel takes them apart shortly after their last socket and process are gone.
func (n *Network) Close() error {
	var errs []error
	for _, h := range n.hosts {
		errs = append(errs, h.close())
	}
	return errors.Join(errs...)
}

// Drops returns how many packets the production router has dropped for their source, both families together.
func (n *Network) Drops() (uint64, error) { return countDrops(n.production) }

func (n *Network) build(ctx context.Context, strict bool) error {
	for number, name := range []string{"a", "b", "production", "replication"} {
		h, err := newHost(name, byte(number+1), name != "a" && name != "b")
		if err != nil {
			return err
		}
		n.hosts = append(n.hosts, h)
	}
	a, b, production, replication := n.hosts[0], n.hosts[1], n.hosts[2], n.hosts[3]
	n.A, n.B, n.production = &Server{Host: a}, &Server{Host: b}, production
	var transit *Interface
	for _, c := range []struct {
		to    **Interface
		i, at *Interface // of a host, and of its router
	}{
		{&n.A.Eth0, a.interfaceIn(1, server, "eth0"), production.interfaceIn(1, gateway, "a-eth0")},
		{&n.A.Eth1, a.interfaceIn(2, server, "eth1"), replication.interfaceIn(2, gateway, "a-eth1")},
		{&n.B.Eth0, b.interfaceIn(3, server, "eth0"), production.interfaceIn(3, gateway, "b-eth0")},
		{&n.B.Eth1, b.interfaceIn(4, server, "eth1"), replication.interfaceIn(4, gateway, "b-eth1")},
		{&transit, replication.interfaceIn(0, otherGateway, "transit"), production.interfaceIn(0, gateway, "transit")},
	} {
		if err := connect(ctx, c.i, c.at); err != nil {
			return err
		}
		*c.to = c.i
	}
	err := errors.Join(
		a.addRoutes(n.A.Eth0.Peer), a.addRoutes(n.A.Eth1.Peer, 4), b.addRoutes(n.B.Eth0.Peer),
		production.addRoutes(transit, 2, 4), replication.addRoutes(transit.Peer, 1, 3),
	)
	if err != nil || !strict {
		return err
	}
	return errors.Join(checkSources(production, n.A.Eth0.Peer, n.B.Eth0.Peer), checkSources(replication, n.A.Eth1.Peer, n.B.Eth1.Peer))
}
