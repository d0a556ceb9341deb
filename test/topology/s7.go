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
	t, err := NewTwoNIC(ctx, options)
	if err != nil {
		return nil, err
	}
	s := &S7{TwoNIC: t}
	for _, step := range []func() error{
		s.addContainer,
		func() error { return s.defaultVia(s.Container, s7Containers, gatewayNumber, 0) },
		s.Server.forward,
		func() error { return s.routeVia(s.Replication.Host, twoNICReplication, serverNumber, s7Containers) },
		func() error { return s.routeVia(s.Core.Host, twoNICCoreReplication, transitNumber, s7Containers) },
		func() error { return s.permitSubnets(s.Replication, "server", s7Containers) },
		func() error { return s.WaitReady(ctx) },
	} {
		if err := step(); err != nil {
			return nil, s.closeAfter("build network s7", err)
		}
	}
	return s, nil
}

func (s *S7) addContainer() error {
	var err error
	s.Bridge, err = s.Server.AddBridge("docker0", s.hostAddresses(s7Containers, gatewayNumber)...)
	if err != nil {
		return err
	}
	if s.Container, err = s.Host("container"); err != nil {
		return err
	}
	s.ContainerEth0, err = s.Bridge.Connect(NIC{
		Host: s.Container, Name: "eth0", Addresses: s.hostAddresses(s7Containers, serverNumber),
	})
	return err
}
