// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"os"
	"testing"
	"time"

	"replypath/bpf"
	"replypath/loader/attach"
	"replypath/loader/datapath"
	"replypath/loader/pins"
	"replypath/loader/status"
	"replypath/test/await"
	"replypath/test/topology"
)

var errInjected = errors.New("injected")

// failAfter takes so many steps of a start, fails then, and returns how many steps there are.
func (b *server) failAfter(taken int, changes ...func(*Options)) (steps int) {
	b.Helper()
	b.inside(func() error {
		l := &Loader{newCore(b.options(changes...))}
		all := start{l.core}.steps()
		steps = len(all)
		err := start{l.core}.attempt(append(all[:taken:taken], func() error { return errInjected }))
		if err == nil || err.Error() != errInjected.Error() {
			b.Errorf("after step %d: %v", taken, err)
		}
		return nil
	})
	return steps
}

// eachFailure has a start fail after each of its steps, and looks at what that leaves.
func (b *server) eachFailure(look func(after string), changes ...func(*Options)) (failures int) {
	b.Helper()
	for taken, steps := 1, 1; taken <= steps; taken++ {
		steps = b.failAfter(taken, changes...)
		look(fmt.Sprintf("a failure after step %d", taken))
		failures++
	}
	return failures
}

func TestFailedStartIsUndone(t *testing.T) {
	byEach(t, func(t *testing.T, mechanism attach.Mechanism) {
		b := newServer(t)
		// So that sockets that are bound to eth1 get a default route.
		b.ip(fmt.Sprintf("route add 10.77.0.0/16 via %s dev eth1", b.eth1.Gateway(topology.IPv4)))
		b.setRPFilter("eth1", 1)
		before := b.snapshot()
		failures := b.eachFailure(func(after string) {
			await.Same(b, after, before, b.snapshot())
			b.wantNoPins(after)
		}, by(mechanism))
		await.Must(t, os.Mkdir(b.dir, 0o700))
		b.failAfter(b.failAfter(1, by(mechanism)), by(mechanism))
		if left, err := os.ReadDir(b.dir); err != nil || len(left) != 0 {
			t.Errorf("left in a directory that was there before: %v, %v", left, err)
		}
		b.start(by(mechanism))
		b.awaitAttached("eth1")
		t.Logf("%d failures, 0 differences", failures)
	})
}

func onTrial(o *Options) { o.Trial = time.Hour }

// until returns when the programs take a trial for over, 0 for never.
func (b *server) until() time.Duration {
	b.Helper()
	var settings bpf.DatapathSettings
	await.Must(b.T, b.maps().Configuration.Get(&settings))
	return time.Duration(settings.Until)
}

// TestTrialEnds: the programs are told when a trial is over, which runs from when somebody can confirm it. From then on all
// who look see that they observe, and it cannot be confirmed any more. One that is confirmed has no end.
func TestTrialEnds(t *testing.T) {
	b := newServer(t)
	r := b.start(onTrial)
	first := b.until()
	before := await.Must1[uint64](t)(datapath.Now())
	await.Must(t, r.CountDown())
	after := await.Must1[uint64](t)(datapath.Now())
	if until := b.until() - r.options.Trial; until < first-r.options.Trial || uint64(until) < before || uint64(until) > after {
		t.Errorf("counted down at %d to %d, and the programs from %d", before, after, until)
	}
	b.wantMode("on trial", "enforce")
	r.locked(func() error { return r.maps.Limit(time.Nanosecond) })
	b.wantMode("once it is over", "observe")
	b.inside(func() error { _, err := status.SetMode(b.dir, "enforce"); return err })
	b.wantMode("once it is over, whatever the mode by hand", "observe")
	s := b.status()
	if s.TrialUntil != nil || s.TrialEnded == nil {
		t.Errorf("on trial until %v: %s", s.TrialUntil, s.Summary)
	}
	if err := r.Keep(); err == nil {
		t.Error("it is confirmed though it is over")
	}
	r.stop()
	b.start(onTrial)
	if b.logged("a trial was not confirmed, it is taken back") != 1 || b.status().TrialUntil == nil || b.mode() != "enforce" {
		t.Error("not taken back by the next one")
	}
}

// TestConfirmationIsWrittenFirst: a trial whose confirmation cannot be written down still has its end, and a confirmed one whose
// process died before it took that away has none after the next start.
func TestConfirmationIsWrittenFirst(t *testing.T) {
	b := newServer(t)
	r := b.start(onTrial)
	until := b.until()
	journal := r.journal
	r.locked(func() error { r.journal = r.closedJournal(); return nil })
	if err := r.Keep(); err == nil {
		t.Error("confirmed without a journal")
	}
	r.locked(func() error { r.journal = journal; return nil })
	await.Same(t, "end of the trial that is not confirmed", until, b.until())
	await.Must(t, r.Keep())
	await.Same(t, "end of the trial that is", 0, b.until())
	r.locked(func() error { return r.maps.Limit(time.Hour) })
	r.stop()
	b.start()
	await.Same(t, "end that was left", 0, b.until())
}

// closedJournal is one that nothing can be written to.
func (r *running) closedJournal() *pins.JournalMap {
	journal, _, err := pins.CreateJournal(r.dir)
	await.Must(r.b.T, errors.Join(err, journal.Close()))
	return journal
}

// TestTakeBackKeepsTheMechanism: what a trial has replaced is attached again the way that it was, on the device of the
// fallback route too, however the trial attaches.
func TestTakeBackKeepsTheMechanism(t *testing.T) {
	byEach(t, func(t *testing.T, before attach.Mechanism) {
		b := newServer(t)
		b.start(by(before)).stop()
		trace, journal := b.trace(), b.journal()
		for _, tried := range mechanisms {
			b.start(by(tried), onTrial).stop()
			b.takeBack()
			await.Same(b, "host after a trial by "+string(tried), trace, b.trace())
			await.Same(b, "journal after a trial by "+string(tried), journal, b.journal())
		}
		t.Logf("%d qdiscs, filters, rp_filters and counts of programs compared, and the journal: 0 differences", len(trace))
	})
}
