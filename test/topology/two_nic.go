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
	t := &TwoNIC{Network: New(Options{NoIPv6: options.NoIPv6})}
	for _, step := range []func() error{
		func() error { return t.addHosts(options.Policy) },
		func() error { return t.layCables(options) },
		func() error { return t.addRoutes(options.Eth1Metric) },
		t.permitCore,
		func() error { return t.WaitReady(ctx) },
		func() error { return t.warm(ctx, !options.ColdGateways, t.Server.Eth0, t.ClientEth0) },
	} {
		if err := step(); err != nil {
			return nil, t.closeAfter("build network with two NICs", err)
		}
	}
	return t, nil
}

func (t *TwoNIC) addHosts(policy Policy) error {
	var err error
	if t.Server, err = t.server("server"); err != nil {
		return err
	}
	if t.Client, err = t.Host("client"); err != nil {
		return err
	}
	if t.Production, err = t.Router("production", policy); err != nil {
		return err
	}
	if t.Replication, err = t.Router("replication", policy); err != nil {
		return err
	}
	t.Core, err = t.Router("core", AnySource)
	return err
}

func (t *TwoNIC) layCables(options TwoNICOptions) error {
	var unused *Interface
	for _, c := range []struct {
		to **Interface
		cable
	}{
		{&t.Server.Eth0, cable{subnet: twoNICProduction, host: t.Server.Host, name: "eth0", number: serverNumber, router: t.Production, routerName: "server", mtu: options.ProductionMTU}},
		{&t.Server.Eth1, cable{subnet: twoNICReplication, host: t.Server.Host, name: "eth1", number: serverNumber, router: t.Replication, routerName: "server", mtu: options.ReplicationMTU, device: options.Eth1}},
		{&t.ClientEth0, cable{subnet: twoNICClient, host: t.Client, name: "eth0", number: serverNumber, router: t.Core, routerName: "client", mtu: options.ClientMTU}},
		{&unused, cable{subnet: twoNICCoreProduction, host: t.Production.Host, name: "core", number: transitNumber, router: t.Core, routerName: "production"}},
		{&unused, cable{subnet: twoNICCoreReplication, host: t.Replication.Host, name: "core", number: transitNumber, router: t.Core, routerName: "replication"}},
	} {
		c.offloads = options.Offloads
		var err error
		if *c.to, err = t.lay(c.cable); err != nil {
			return err
		}
	}
	return nil
}

func (t *TwoNIC) addRoutes(eth1Metric int) error {
	for _, r := range []struct {
		host    *Host
		gateway subnet
	}{
		{t.Server.Host, twoNICProduction},
		{t.Client, twoNICClient},
		{t.Production.Host, twoNICCoreProduction},
		{t.Replication.Host, twoNICCoreReplication},
	} {
		if err := t.defaultVia(r.host, r.gateway, gatewayNumber, 0); err != nil {
			return err
		}
	}
	if err := t.routeVia(t.Core.Host, twoNICCoreProduction, transitNumber, twoNICProduction); err != nil {
		return err
	}
	if err := t.routeVia(t.Core.Host, twoNICCoreReplication, transitNumber, twoNICReplication); err != nil {
		return err
	}
	if eth1Metric == 0 {
		return nil
	}
	return t.defaultVia(t.Server.Host, twoNICReplication, gatewayNumber, eth1Metric)
}

// permitCore permits new connections from the core, whoever they come from.
func (t *TwoNIC) permitCore() error {
	for _, r := range []*Router{t.Production, t.Replication} {
		err := r.Permit("core", netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0"))
		if err != nil {
			return err
		}
	}
	return nil
}
