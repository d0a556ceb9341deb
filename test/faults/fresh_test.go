// SPDX-License-Identifier: Apache-2.0

package faults

import (
	"slices"
	"testing"

	"replypath/test/await"
	"replypath/test/short"
	"replypath/test/topology"
	"replypath/test/traffic"
	"replypath/test/wire"
)

// TestFirstStartDuringFault starts for the first time while the production NIC is gone, or its default route:
// connections that are open since before, and new ones, are answered by eth1, during the fault and after it.
func TestFirstStartDuringFault(t *testing.T) {
	t.Parallel()
	quick, isRun := short.Run(t), short.Pairs(t)
	for n, fault := range slices.Delete(slices.Clone(faults), 2, 3) { // without eth0 there is nothing to manage
		for m, mechanism := range []string{"usual", "clsact"} {
			for k, f := range traffic.Families {
				if quick && (n%3 != 0 || m != n/2 || k != n%2) || !quick && !isRun(n, m, k) {
					continue
				}
				t.Run(mechanism+"/"+fault.name+"/"+f.String(), func(t *testing.T) {
					testFirstStart(t, fault, f, mechanisms[mechanism])
				})
			}
		}
	}
}

func testFirstStart(t *testing.T, fault fault, f topology.Family, args []string) {
	t.Parallel()
	b := newBed(t, f, anySource)
	open := []*traffic.Conversation{b.conversation(traffic.TCP), b.conversation(traffic.UDP)}
	for _, c := range open {
		b.ask(c) // answered by eth0
	}
	fault.begin(b)
	if c := b.conversation(traffic.TCP); c.Ask(await.Within(t, inVain)) == nil {
		t.Errorf("%s was answered without replypath", c)
	}
	b.start(args...)
	b.wantShown(fault, true)
	wires := wire.Tap(t, b.net.Server)
	answered := 0
	askAll := func(when string, conversations ...*traffic.Conversation) {
		t.Helper()
		for _, c := range conversations {
			b.askPromptly(when+" "+c.String(), c)
			answered += len(wires.WantEth1(c.String(), c.Answers()))
		}
	}
	askAll("during the fault, open", open...)
	askAll("during the fault, new", b.fresh()...)
	fault.end(b)
	b.Eventually("the host reaches the client as before", func() error { return b.reach(traffic.TCP) })
	b.wantShown(fault, false)
	askAll("afterwards, open", open...)
	askAll("afterwards, new", b.fresh()...)
	t.Logf("%d answers by eth1, 0 by eth0", answered)
}
