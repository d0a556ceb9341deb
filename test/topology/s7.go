// SPDX-License-Identifier: Apache-2.0

package topology

import "context"

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
