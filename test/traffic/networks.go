// SPDX-License-Identifier: Apache-2.0

package traffic

import (
	"context"
	"testing"

	"replypath/test/await"
	"replypath/test/topology"
)

var setUpTime = 2 * await.AnswerTime

// NewNetwork is a network without hosts, for the duration of the test.
func NewNetwork(t testing.TB) *topology.Network {
	t.Helper()
	n := topology.New(topology.Options{})
	closeAtEnd(t, n)
	return n
}

// NewHost is a host with no interface but lo, for the duration of the test.
func NewHost(t testing.TB) *topology.Host {
	t.Helper()
	return await.Must1[*topology.Host](t)(NewNetwork(t).Host("host"))
}

// NewS1 builds the network S1 for the duration of the test, with echo servers at the addresses of B's eth1.
func NewS1(t testing.TB, options topology.S1Options) *topology.S1 {
	t.Helper()
	s := Build(t, func(ctx context.Context) (*topology.S1, error) { return topology.NewS1(ctx, options) })
	ServeNICs(t, s.B.Eth1)
	return s
}

// NewTwoNIC builds the network TwoNIC for the duration of the test, with echo servers at the addresses of the server's
// eth1.
func NewTwoNIC(t testing.TB, options topology.TwoNICOptions) *topology.TwoNIC {
	t.Helper()
	n := Build(t, func(ctx context.Context) (*topology.TwoNIC, error) { return topology.NewTwoNIC(ctx, options) })
	ServeNICs(t, n.Server.Eth1)
	return n
}

// NewS7 builds the network S7 for the duration of the test, with echo servers at the addresses of the server's eth1 and
// of the container.
func NewS7(t testing.TB, options topology.TwoNICOptions) *topology.S7 {
	t.Helper()
	s := Build(t, func(ctx context.Context) (*topology.S7, error) { return topology.NewS7(ctx, options) })
	ServeNICs(t, s.Server.Eth1, s.ContainerEth0)
	return s
}

// Build builds any network for the duration of the test.
func Build[N interface{ Close() error }](t testing.TB, build func(context.Context) (N, error)) N {
	t.Helper()
	n := await.Must1[N](t)(build(await.Within(t, setUpTime)))
	closeAtEnd(t, n)
	return n
}

// NewS4 builds the network S4 for the duration of the test, with echo servers at the box's addresses of the management
// and of the outside, and on the internet.
func NewS4(t testing.TB) *topology.S4 {
	t.Helper()
	s := Build(t, topology.NewS4)
	ServeNICs(t, s.Eth0, s.Bond1, s.InternetEth0, s.MonitorEth0)
	return s
}

func closeAtEnd(t testing.TB, n interface{ Close() error }) {
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Errorf("close the network: %v", err)
		}
	})
}
