// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"replypath/loader/attach"
	"replypath/loader/pins"
	"replypath/test/await"
)

func onTrial(o *Options) { o.Trial = time.Hour }

// TestTakeBackOfNothing: a process that tries may be killed before it has written what it is about to do. What it left is
// taken away all the same.
func TestTakeBackOfNothing(t *testing.T) {
	b := newServer(t)
	for hasJournal, begin := range map[bool]func(*pins.Dir) error{
		false: func(*pins.Dir) error { return nil },
		true: func(d *pins.Dir) error { // without a word
			journal, _, err := pins.CreateJournal(d)
			return errors.Join(err, journal.Close())
		},
	} {
		dir, err := pins.Own(b.dir)
		await.Must(t, err)
		await.Must(t, begin(dir))
		await.Must(t, dir.Close())
		if done := b.takeBack(); done != hasJournal {
			t.Errorf("with a journal: %t, taken back: %t", hasJournal, done)
		}
		b.wantNoPins(fmt.Sprintf("with a journal: %t", hasJournal))
	}
}

// TestTakeBack: flows and counters that a trial leaves refer to its ids, so that the interface that comes next gets another;
// what was repaired on trial was repaired; its time begins when somebody can confirm it.
func TestTakeBack(t *testing.T) {
	b := newServer(t)
	b.start().stop()
	r := b.start(onTrial)
	started := time.Now()
	await.Must(t, r.CountDown())
	if until := b.status().TrialUntil; until == nil || until.Before(started.Add(r.options.Trial)) {
		t.Errorf("started %s, on trial until %v, for %s", started, until, r.options.Trial)
	}
	b.addEth2(0)
	b.awaitAttached("eth2")
	tried := b.idsOf("eth2")
	r.locked(func() error { return r.takeOff("eth1") })
	b.awaitRepairs(repairProgram, 1)
	r.stop()
	b.takeBack()
	if got := b.repairs(repairProgram); got != 1 {
		t.Errorf("%d repairs after the trial, on it 1", got)
	}
	b.start()
	b.awaitAttached("eth2")
	if ids := b.idsOf("eth2"); len(ids) != 2 || ids[0] != tried[0] {
		t.Errorf("ids of eth2: %v, on trial %v", ids, tried)
	}
}

// TestTrialBesideRefusedInterface: eth1 took no programs of the earlier datapath, because of another qdisc, and takes none of
// the trial. That is no reason not to take the trial back, nor for the next start to fail over it.
func TestTrialBesideRefusedInterface(t *testing.T) {
	b := newServer(t)
	_, lift := takeQdisc(b)
	b.start(byClsact).stop()
	before, maps := b.journal(), b.mapIDs()
	b.start(byClsact, onTrial).stop()
	if !b.takeBack() {
		t.Error("not taken back")
	}
	wantSame(b, "journal", before, b.journal())
	wantSame(b, "maps", maps, b.mapIDs())
	b.start(byClsact, onTrial).stop() // whose process is gone: the next start takes it back
	r := b.start(byClsact)
	lift()
	r.verifyNow()
	if !b.status().of("eth1").Attached {
		t.Error("eth1 is not attached, though nothing is in the way")
	}
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
			wantSame(b, "host after a trial by "+string(tried), trace, b.trace())
			wantSame(b, "journal after a trial by "+string(tried), journal, b.journal())
		}
		t.Logf("%d qdiscs, filters, rp_filters and counts of programs compared, and the journal: 0 differences", len(trace))
	})
}
