// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"replypath/loader/counters"
	"replypath/metrics"
	"replypath/test/await"
	"replypath/test/topology"
)

// answers has A ask B at both interfaces, and counts what leaves by either. Of nil nobody asks.
type answers struct {
	*server
	by0, by1 *topology.Capture
	asked    int
}

func newAnswers(b *server) *answers {
	b.Helper()
	capture := func(i *topology.Interface) *topology.Capture {
		c, err := i.Peer().Capture(topology.CaptureOptions{})
		await.Must(b.T, err)
		b.Cleanup(func() { await.Must(b.T, c.Stop()) })
		return c
	}
	return &answers{server: b, by0: capture(b.eth0), by1: capture(b.eth1)}
}

// wantRight has each of B's interfaces asked while the default route leads by the other one: without programs no answer
// would leave by the right one.
func (a *answers) wantRight() {
	if a == nil {
		return
	}
	a.Helper()
	a.ask(a.eth1)
	a.moveDefault(a.eth0, a.eth1)
	a.ask(a.eth0)
	a.moveDefault(a.eth1, a.eth0)
	if right, wrong := a.left(); right != a.asked || wrong > 0 {
		a.Errorf("%d answers left by the right interface, %d by the other, of %d", right, wrong, a.asked)
	}
}

func (a *answers) ask(at *topology.Interface) {
	a.Helper()
	for _, f := range a.net.Families() {
		a.asked++
		if _, err := a.net.A.Ping(within(a.T), topology.Echo{To: at.Address(f)}); err != nil {
			a.Fatalf("%s by %s: %v", f, at.Name, err)
		}
	}
}

func (a *answers) moveDefault(from, to *topology.Interface) {
	a.Helper()
	for _, f := range a.net.Families() {
		await.Must(a.T, a.net.B.RemoveRoute(topology.Route{Via: from.Gateway(f)}))
		await.Must(a.T, a.net.B.AddRoute(topology.Route{Via: to.Gateway(f)}))
		await.Must(a.T, to.Resolve(within(a.T), to.Gateway(f)))
	}
}

// left counts the answers by the interface that was asked, and by the other.
func (a *answers) left() (right, wrong int) {
	of := func(i *topology.Interface) topology.Filter {
		var from []topology.Filter
		for _, f := range a.net.Families() {
			from = append(from, topology.From(i.Address(f)))
		}
		return topology.All(topology.EchoReply, topology.Going(topology.Received), topology.OneOf(from...))
	}
	right = a.by0.Count(of(a.eth0)) + a.by1.Count(of(a.eth1))
	wrong = a.by0.Count(of(a.eth1)) + a.by1.Count(of(a.eth0))
	return right, wrong
}

// wantCorrected wants as many packets counted as corrected as there were questions.
func (a *answers) wantCorrected(r *running) {
	if a == nil {
		return
	}
	a.Helper()
	corrected := sum(r.counters(), counters.CorrectedPackets)
	await.Same(a, "packets corrected", float64(a.asked), corrected)
	right, wrong := a.left()
	a.Logf("refused by eth1: %d questions, %d answers by the interface that was asked, %d by the other, %.0f counted as corrected",
		a.asked, right, wrong, corrected)
}

// backwards lists the series of interface pairs that fell.
func backwards(now, before metrics.Samples) (less []string) {
	values := ofPairs(now)
	for series, was := range ofPairs(before) {
		if values[series] < was {
			less = append(less, series)
		}
	}
	return less
}
