// SPDX-License-Identifier: Apache-2.0

package managers

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"replypath/test/topology"
	"replypath/test/traffic"
	"replypath/test/wire"
)

// load asks eth1 all the time, by connections that stay open and by one new connection after the other.
type load struct {
	*traffic.Load
	t     *testing.T
	n     *topology.TwoNIC
	wires *wire.Wires
}

// pace is how often a connection is opened.
const pace = 5 * time.Millisecond

// startLoad begins to ask, and returns when every connection is open.
func startLoad(t *testing.T, n *topology.TwoNIC) *load {
	t.Helper()
	l := &load{traffic.NewLoad(t), t, n, wire.Tap(t, n.Server)}
	for _, f := range n.Families() {
		eth1 := netip.AddrPortFrom(n.Server.Eth1.Address(f), traffic.EchoPort)
		l.Start(&traffic.Asker{Kind: traffic.TCP, From: n.Client, To: eth1, Pace: pace},
			&traffic.Asker{Kind: traffic.TCP, From: n.Client, To: eth1, Pace: pace * time.Duration(len(n.Families())), Fresh: true})
	}
	l.Await(l.Askers, 1, func() error { return nil })
	return l
}

// stop ends the load, wants every question to be answered and every answer by eth1, and tells how many there were.
func (l *load) stop() string {
	l.t.Helper()
	l.End()
	if failures := l.Failures(); len(failures) > 0 {
		l.t.Errorf("after %d connections: %q", l.Connections(), failures)
	}
	frames, strays := 0, 0
	for _, f := range l.n.Families() {
		eth0, eth1 := l.wires.Left(topology.From(l.n.Server.Eth1.Address(f)))
		frames += len(eth1)
		if strays += len(eth0); len(eth0) > 0 {
			l.t.Errorf("by the wrong NIC: %s", wire.Describe(eth0))
		}
	}
	return fmt.Sprintf("%d answers, %d connections, %d frames by eth1, %d by the wrong NIC",
		l.Answers(), l.Connections(), frames, strays)
}
