// SPDX-License-Identifier: Apache-2.0

package topology

import (
	"context"
	"net/netip"
)

// TwoNIC is a server with two interfaces and a client that reaches both of
// them by routers:
//
//	                             ┌─ production router ── eth0 10.1.0.100
//	client 10.9.0.100 ── core ───┤                                       server
//	                             └─ replication router ─ eth1 10.2.0.100
//
// IPv6 has the same digits. The server's default route is by eth0; no route
// leads over eth1's gateway 10.2.0.1. The core router forwards everything;
// the two others follow the policy.
type TwoNIC struct {
	*Network
	Server *Server
	Client *Host
	// ClientEth0 is the client's interface.
	ClientEth0                    *Interface
	Core, Production, Replication *Router
}

// TwoNICOptions are the variants of TwoNIC.
type TwoNICOptions struct {
	// Policy is that of the production and the replication router.
	Policy Policy
	// ProductionMTU and ReplicationMTU are those of the server's cables, in bytes; 0 is 1500.
	ProductionMTU, ReplicationMTU int
	// ClientMTU is that of the client's cable; 0 is 1500.
	ClientMTU int
	// Offloads of all interfaces on the server's and the client's cables.
	Offloads Offloads
	// Eth1 is what kind of device the server's eth1 is.
	Eth1 Device
	// NoIPv6 leaves IPv6 out.
	NoIPv6 bool
	// Eth1Metric, if not 0, gives the server a second default route by eth1's gateway, with this metric.
	Eth1Metric int
	// ColdGateways leaves it to the first packet to resolve the gateways of eth0, which hosts in use always know: see
	// Interface.Resolve.
	ColdGateways bool
}

// The networks of TwoNIC.
const (
	twoNICProduction      subnet = 1
	twoNICReplication     subnet = 2
	twoNICClient          subnet = 9
	twoNICCoreProduction  subnet = 11
	twoNICCoreReplication subnet = 12
)

// NewTwoNIC builds the network and waits until it is ready.
func NewTwoNIC(ctx context.Context, options TwoNICOptions) (*TwoNIC, error) {
	t, b := buildTwoNIC(options)
	if options.ColdGateways {
		return t, b.finish(ctx, "with two NICs")
	}
	return t, b.finish(ctx, "with two NICs", &t.Server.Eth0, &t.ClientEth0)
}

func buildTwoNIC(options TwoNICOptions) (*TwoNIC, *builder) {
	b := newBuilder(Options{NoIPv6: options.NoIPv6})
	t := &TwoNIC{Network: b.Network, Server: b.server("server"), Client: b.host("client")}
	t.Production, t.Replication = b.router("production", options.Policy), b.router("replication", options.Policy)
	t.Core = b.router("core", AnySource)
	production, replication, eth1 := options.ProductionMTU, options.ReplicationMTU, options.Eth1
	for _, c := range []cable{
		{&t.Server.Eth0, twoNICProduction, t.Server.Host, "eth0", serverNumber, t.Production, "server", production, Cable},
		{&t.Server.Eth1, twoNICReplication, t.Server.Host, "eth1", serverNumber, t.Replication, "server", replication, eth1},
		{&t.ClientEth0, twoNICClient, t.Client, "eth0", serverNumber, t.Core, "client", options.ClientMTU, Cable},
		{nil, twoNICCoreProduction, t.Production.Host, "core", transitNumber, t.Core, "production", 0, Cable},
		{nil, twoNICCoreReplication, t.Replication.Host, "core", transitNumber, t.Core, "replication", 0, Cable},
	} {
		b.lay(c, options.Offloads)
	}
	b.defaultVia(t.Server.Host, twoNICProduction, 0)
	b.defaultVia(t.Client, twoNICClient, 0)
	b.defaultVia(t.Production.Host, twoNICCoreProduction, 0)
	b.defaultVia(t.Replication.Host, twoNICCoreReplication, 0)
	b.routeVia(t.Core.Host, twoNICCoreProduction, transitNumber, twoNICProduction)
	b.routeVia(t.Core.Host, twoNICCoreReplication, transitNumber, twoNICReplication)
	if options.Eth1Metric != 0 {
		b.defaultVia(t.Server.Host, twoNICReplication, options.Eth1Metric)
	}
	// New connections from the core, whoever they come from.
	for _, r := range []*Router{t.Production, t.Replication} {
		b.do(func() error {
			return r.Permit("core", netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0"))
		})
	}
	return t, b
}

// S7 is the network [TwoNIC] with a service in a container of the server:
//
//	                  server
//	eth0 10.1.0.100 ──┤    ├── docker0 10.17.0.1 ── eth0 10.17.0.100 container
//	eth1 10.2.0.100 ──┘
//
// IPv6 has the same digits. The server forwards. Nothing is translated yet: how
// the service is published belongs to the test. The replication router knows
// the container's network as well, by the server's eth1; nobody else does.
type S7 struct {
	*TwoNIC
	Bridge *Bridge
	// Container is the container; its only interface is ContainerEth0.
	Container     *Host
	ContainerEth0 *Interface
}

// s7Containers is the containers' network.
const s7Containers subnet = 17

// NewS7 builds the network and waits until it is ready.
func NewS7(ctx context.Context, options TwoNICOptions) (*S7, error) {
	t, b := buildTwoNIC(options)
	s := &S7{TwoNIC: t}
	b.do(func() (err error) {
		s.Bridge, err = t.Server.AddBridge("docker0", b.hostAddresses(s7Containers, gatewayNumber)...)
		return err
	})
	s.Container = b.host("container")
	b.do(func() (err error) {
		s.ContainerEth0, err = s.Bridge.Connect(NIC{
			Host: s.Container, Name: "eth0", Addresses: b.hostAddresses(s7Containers, serverNumber),
		})
		return err
	})
	b.defaultVia(s.Container, s7Containers, 0)
	b.do(func() error { return t.Server.forward() })
	b.routeVia(t.Replication.Host, twoNICReplication, serverNumber, s7Containers)
	b.routeVia(t.Core.Host, twoNICCoreReplication, transitNumber, s7Containers)
	b.permit(t.Replication, "server", s7Containers)
	return s, b.finish(ctx, "s7", &t.Server.Eth0, &t.ClientEth0)
}
