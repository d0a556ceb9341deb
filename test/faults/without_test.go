// SPDX-License-Identifier: Apache-2.0

package faults

import (
	"sync"
	"testing"
	"time"

	"replypath/test/await"
	"replypath/test/product"
	"replypath/test/topology"
	"replypath/test/traffic"
)

// TestWithout shows what each fault does without the fallback route: nobody gets
// an answer by eth1 any more, on a new connection or an open one, until it ends. The daemon is gone, as it puts back
// neighbour entries that the kernel drops with the carrier, for a few seconds.
func TestWithout(t *testing.T) {
	t.Parallel()
	each(t, faults, func(t *testing.T, fault fault, f topology.Family) {
		t.Parallel()
		b := newBed(t, f, anySource)
		b.start("--config", product.WriteConfig(t, "fallback_route: false\n")).Kill()
		open := b.conversation(traffic.TCP)
		b.ask(open)
		fault.begin(b)
		silenced := append(b.fresh(), open)
		answered := b.askAll(silenced, inVain)
		if len(answered) > 0 {
			t.Errorf("answered were %s", answered)
		}
		fault.end(b)
		for _, kind := range traffic.Kinds {
			b.eventually(b.conversation(kind))
		}
		t.Logf("%s: an open connection and %d new ones by ping, TCP and UDP, %d answered; after it %d",
			fault.name, len(silenced)-1, len(answered), len(traffic.Kinds))
	})
}

// TestRule shows what replypath is held against: without it, a rule for eth1's address and a route of its own by eth1
// survive each fault.
func TestRule(t *testing.T) {
	t.Parallel()
	each(t, faults, func(t *testing.T, fault fault, f topology.Family) {
		t.Parallel()
		b := newBed(t, f, anySource)
		b.ruleForEth1("add")
		open, silent := b.conversation(traffic.TCP), b.conversation(traffic.TCP)
		b.ask(open)
		b.ask(silent)
		talk := open.KeepThrough(t)
		fault.begin(b)
		b.askFresh(fault.name)
		b.askForSomeTime(fault.name+": a connection that was silent", silent)
		fault.end(b)
		for _, kind := range traffic.Kinds {
			b.ask(b.conversation(kind))
		}
		answers := talk.Stop()
		t.Logf("%s, with ip rule: %d answers, the longest pause %s", fault.name, answers, talk.Pause().Round(time.Microsecond))
		if talk.Pause() >= oneRetransmission {
			t.Errorf("an open connection paused for %s", talk.Pause())
		}
	})
}

// ruleForEth1 adds a rule for eth1's address with a default route by eth1, as on hosts that are set up by source, or
// deletes them.
func (b *bed) ruleForEth1(how string) {
	b.Helper()
	eth1 := b.net.Server.Eth1
	b.ip("route", how, "default via", eth1.Gateway(b.family).String(), "dev eth1 table 102")
	b.ip("rule", how, "from", eth1.Address(b.family).String(), "lookup 102")
}

// askAll asks side by side for a while, and returns those that were answered.
func (b *bed) askAll(all []*traffic.Conversation, within time.Duration) (answered []*traffic.Conversation) {
	b.Helper()
	ctx, errs := await.Within(b, within), make([]error, len(all))
	var asked sync.WaitGroup
	for k, c := range all {
		asked.Go(func() { errs[k] = c.Ask(ctx) })
	}
	asked.Wait()
	for k, err := range errs {
		if err == nil {
			answered = append(answered, all[k])
		}
	}
	return answered
}
