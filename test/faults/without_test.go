// SPDX-License-Identifier: Apache-2.0

package faults

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"replypath/test/harness"
	"replypath/test/topology"
)

// TestWithout shows what each fault does without the fallback route: nobody gets
// an answer by eth1 any more, on a new connection or an open one, until it ends. The daemon is gone, as it puts back
// neighbour entries that the kernel drops with the carrier, for a few seconds.
func TestWithout(t *testing.T) {
	t.Parallel()
	each(t, faults, func(t *testing.T, fault fault, f topology.Family) {
		t.Parallel()
		b := newBed(t, f, topology.TwoNICOptions{Policy: topology.AnySource})
		b.start("--config", harness.WriteConfig(t, "fallback_route: false\n")).Kill()
		open := b.conversation(harness.TCP)
		b.ask(open)
		fault.begin(b)
		silenced := []*harness.Conversation{open}
		for _, kind := range harness.Kinds {
			silenced = append(silenced, b.conversation(kind))
		}
		answered, again := b.askInVain(silenced), 0
		fault.end(b)
		for _, kind := range harness.Kinds {
			b.eventually(b.conversation(kind))
			again++
		}
		t.Logf("%s: an open connection and %d new ones by ping, TCP and UDP, %d answered; after it %d",
			fault.name, len(silenced)-1, answered, again)
	})
}

// TestRule shows what replypath is held against: without it, a rule for eth1's address and a route of its own by eth1
// survive each fault.
func TestRule(t *testing.T) {
	t.Parallel()
	each(t, faults, func(t *testing.T, fault fault, f topology.Family) {
		t.Parallel()
		b := newBed(t, f, topology.TwoNICOptions{Policy: topology.AnySource})
		eth1 := b.net.Server.Eth1
		b.ip("route", "add", "default", "via", eth1.Gateway(f).String(), "dev", "eth1", "table", "102")
		b.ip("rule", "add", "from", eth1.Address(f).String(), "lookup", "102")
		open, silent := b.conversation(harness.TCP), b.conversation(harness.TCP)
		b.ask(open)
		b.ask(silent)
		talk := open.KeepThrough(t)
		fault.begin(b)
		for _, kind := range harness.Kinds {
			b.askPromptly(fmt.Sprintf("%s: new %s", fault.name, kind), b.conversation(kind))
		}
		b.askForSomeTime(fault.name+": a connection that was silent", silent)
		fault.end(b)
		for _, kind := range harness.Kinds {
			b.ask(b.conversation(kind))
		}
		answers := talk.Stop()
		t.Logf("%s, with ip rule: %d answers, the longest pause %s", fault.name, answers, talk.Pause().Round(time.Microsecond))
		if talk.Pause() >= oneRetransmission {
			t.Errorf("an open connection paused for %s", talk.Pause())
		}
	})
}

// askInVain asks side by side, wants no answer for a while, and returns how many came all the same.
func (b *bed) askInVain(all []*harness.Conversation) (answered int) {
	b.Helper()
	ctx, errs := harness.Within(b, inVain), make([]error, len(all))
	var asked sync.WaitGroup
	for k, c := range all {
		asked.Go(func() { errs[k] = c.Ask(ctx) })
	}
	asked.Wait()
	for k, err := range errs {
		if err == nil {
			answered++
			b.Errorf("%s was answered", all[k])
		}
	}
	return answered
}
