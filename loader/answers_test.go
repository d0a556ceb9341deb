// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"slices"
	"testing"

	"replypath/metrics"
	"replypath/test/harness"
	"replypath/test/topology"
)

// answers has A ask B at both interfaces, and counts what leaves by either.
type answers struct {
	*testing.T
	s          *topology.S1
	eth0, eth1 *topology.Capture
	asked      int
}

func newAnswers(t *testing.T, s *topology.S1) *answers {
	t.Helper()
	capture := func(i *topology.Interface) *topology.Capture {
		c, err := i.Peer().Capture(topology.CaptureOptions{})
		harness.Must(t, err)
		t.Cleanup(func() { harness.Must(t, c.Stop()) })
		return c
	}
	return &answers{T: t, s: s, eth0: capture(s.B.Eth0), eth1: capture(s.B.Eth1)}
}

// wantRight has each of B's interfaces asked while the default route leads by the
// other one: without programs no answer would leave by the right one.
func (a *answers) wantRight() {
	a.Helper()
	a.ask(a.s.B.Eth1)
	a.moveDefault(a.s.B.Eth0, a.s.B.Eth1)
	a.ask(a.s.B.Eth0)
	a.moveDefault(a.s.B.Eth1, a.s.B.Eth0)
	if right, wrong := a.left(); right != a.asked || wrong > 0 {
		a.Errorf("%d answers left by the right interface, %d by the other, of %d", right, wrong, a.asked)
	}
}

func (a *answers) ask(at *topology.Interface) {
	a.Helper()
	for _, f := range a.s.Families() {
		a.asked++
		if _, err := a.s.A.Ping(within(a.T), topology.Echo{To: at.Address(f)}); err != nil {
			a.Fatalf("%s by %s: %v", f, at.Name, err)
		}
	}
}

func (a *answers) moveDefault(from, to *topology.Interface) {
	a.Helper()
	for _, f := range a.s.Families() {
		harness.Must(a.T, a.s.B.RemoveRoute(topology.Route{Via: from.Gateway(f)}))
		harness.Must(a.T, a.s.B.AddRoute(topology.Route{Via: to.Gateway(f)}))
		harness.Must(a.T, to.Resolve(within(a.T), to.Gateway(f)))
	}
}

// left counts the answers by the interface that was asked, and by the other.
func (a *answers) left() (right, wrong int) {
	of := func(i *topology.Interface) topology.Filter {
		var from []topology.Filter
		for _, f := range a.s.Families() {
			from = append(from, topology.From(i.Address(f)))
		}
		return topology.All(topology.EchoReply, topology.Going(topology.Received), topology.OneOf(from...))
	}
	right = a.eth0.Count(of(a.s.B.Eth0)) + a.eth1.Count(of(a.s.B.Eth1))
	wrong = a.eth0.Count(of(a.s.B.Eth1)) + a.eth1.Count(of(a.s.B.Eth0))
	return right, wrong
}

// corrected returns how many packets were moved to another interface, as they are
// counted.
func corrected(c *metrics.Snapshot) (sum uint64) {
	for _, p := range c.Pairs {
		sum += p.CorrectedPackets
	}
	return sum
}

// backwards lists the pairs of interfaces that have been counted less for.
func backwards(c, before *metrics.Snapshot) (less []metrics.Pair) {
	for _, was := range before.Pairs {
		i := slices.IndexFunc(c.Pairs, func(p metrics.PairCounters) bool { return p.Pair == was.Pair })
		if i < 0 || c.Pairs[i].CorrectedPackets < was.CorrectedPackets ||
			c.Pairs[i].CorrectedBytes < was.CorrectedBytes || c.Pairs[i].AsymmetricPackets < was.AsymmetricPackets {
			less = append(less, was.Pair)
		}
	}
	return less
}
