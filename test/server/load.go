// SPDX-License-Identifier: Apache-2.0

package server

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"replypath/test/topology"
	"replypath/test/traffic"
	"replypath/test/wire"
)

// Load is what clients ask of a server's eth1, without end.
type Load struct {
	*traffic.Load
	*testing.T
	Net  *topology.TwoNIC
	eth0 *topology.Capture
	seen []*topology.Frame // those that went astray
}

// StartLoad has askers of each family ask until the test ends, and returns when all are answered. It captures what leaves the
// server by eth0.
func StartLoad(t *testing.T, n *topology.TwoNIC, askers func(client *topology.Host, to netip.AddrPort) []*traffic.Asker) *Load {
	t.Helper()
	l := &Load{Load: traffic.NewLoad(t), T: t, Net: n, eth0: wire.Capture(t, n.Server.Eth0.Peer())}
	for _, f := range n.Families() {
		l.Start(askers(n.Client, netip.AddrPortFrom(n.Server.Eth1.Address(f), traffic.EchoPort))...)
	}
	l.GoesOn()
	return l
}

// GoesOn wants everybody to be answered from now on.
func (l *Load) GoesOn() {
	l.Helper()
	l.Await(l.Askers, 1, func() error {
		if failures := l.Failures(); len(failures) > 0 {
			l.Fatal(strings.Join(failures, "\n"))
		}
		return nil
	})
}

// Strays are the answers that have left by eth0 since those that were forgotten.
func (l *Load) Strays() []*topology.Frame {
	answers := topology.OneOf(topology.TCP, topology.UDP, topology.EchoReply)
	addresses := topology.OneOf(topology.From(l.Net.Server.Eth1.Address(topology.IPv4)), topology.From(l.Net.Server.Eth1.Address(topology.IPv6)))
	l.seen = append(l.seen, l.eth0.Take(topology.All(answers, addresses, topology.Going(topology.Received)))...)
	return l.seen
}

// Forget returns the strays so far, and has them count no more.
func (l *Load) Forget() []*topology.Frame {
	forgotten := l.Strays()
	l.seen = nil
	return forgotten
}

// Finish ends the load and wants it whole. It returns the frames that went astray, and what to say of all:
// "100 connections, 2000 answers: 0 broken, 0 stray frames".
func (l *Load) Finish() (said string, strays []*topology.Frame) {
	l.Helper()
	l.End()
	strays = l.Strays()
	failures := l.Failures()
	for _, failure := range failures {
		l.Error(errors.New(failure))
	}
	return fmt.Sprintf("%d connections, %d answers: %d broken, %d stray frames",
		l.Connections(), l.Answers(), len(failures), len(strays)), strays
}

// Stop is Finish, and wants that nothing went astray.
func (l *Load) Stop() (said string) {
	l.Helper()
	said, strays := l.Finish()
	if len(strays) > 0 {
		l.Errorf("by eth0 left %s", wire.Describe(strays))
	}
	return said
}
