// SPDX-License-Identifier: Apache-2.0

package load

import (
	"context"

	"replypath/test/bench/contender"
)

// origins are the workloads whose questions the server asks, from the address of eth1.
func origins() []*Workload {
	only := []string{contender.Static, contender.Rules2, "iprule-100", contender.Strong}
	return []*Workload{
		{Name: "origin-udp-64", Unit: "1/s", Origin: true, Only: only, start: originate(func(_ context.Context, c *crew, r route) error {
			r.unconnected = true
			return c.echoUDP(r, CPU(), 64)
		}), About: "udp-echo-64 the other way: the server asks, from an address of eth1, by a socket that is not connected"},
		{Name: "origin-tcp-rr", Unit: "1/s", Origin: true, Only: only, start: originate(func(ctx context.Context, c *crew, r route) error {
			return c.askOnConnections(ctx, r, 1)
		}), About: "tcp-rr the other way: the server opened the connection, from an address of eth1"},
	}
}

// originate starts work for which the server asks the client.
func originate(start func(context.Context, *crew, route) error) func(context.Context, *contender.Site, *Shared) (Work, error) {
	return func(ctx context.Context, s *contender.Site, _ *Shared) (Work, error) {
		c := newCrew()
		if err := start(ctx, c, route{client: s.Server, from: s.Self, server: s.Client, to: s.Peer, port: firstPort}); err != nil {
			return nil, c.closeAfter(err)
		}
		return c, nil
	}
}
