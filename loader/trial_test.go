// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"replypath/loader/detach"
	"replypath/loader/pins"
	"replypath/test/harness"
	"replypath/test/topology"
)

// TestTakeBackOfNothing: a process that tries may be killed before it has written what
// it is about to do. What it left is taken away all the same.
func TestTakeBackOfNothing(t *testing.T) {
	s := newS1(t, topology.S1Options{})
	for hasJournal, begin := range map[bool]func(*pins.Dir) error{
		false: func(*pins.Dir) error { return nil },
		true: func(d *pins.Dir) error { // without a word
			journal, _, err := pins.CreateJournal(d)
			return errors.Join(err, journal.Close())
		},
	} {
		t.Run(fmt.Sprintf("journal: %t", hasJournal), func(t *testing.T) {
			b := newBed(t, s.B.Host)
			dir, err := pins.Own(b.dir)
			harness.Must(t, err)
			harness.Must(t, begin(dir))
			harness.Must(t, dir.Close())
			b.inside(func() error {
				done, err := detach.TakeBack(b.dir, os.Getpid(), slog.Default())
				if done != hasJournal {
					t.Errorf("taken back: %t", done)
				}
				return err
			})
			if _, err := os.Stat(b.dir); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("the pin directory: %v", err)
			}
		})
	}
}

// TestTrialUsesUpIDs: flows and counters that a trial leaves refer to its ids, so that the
// interface that comes next gets another.
func TestTrialUsesUpIDs(t *testing.T) {
	b := newBed(t, newS1(t, topology.S1Options{}).B.Host)
	b.start(nil).stop()
	r := b.start(onTrial)
	b.addEth2(0)
	b.awaitAttached("eth2")
	tried := b.idsOf("eth2")
	r.stop()
	b.inside(func() error {
		_, err := detach.TakeBack(b.dir, os.Getpid(), slog.Default())
		return err
	})
	b.start(nil)
	b.awaitAttached("eth2")
	if lives := b.idsOf("eth2"); len(lives) != 2 || lives[0] != tried[0] {
		t.Errorf("ids of eth2: %v, on trial %v", lives, tried)
	}
}

// TestTrialBesideRefusedInterface: eth1 took no programs of the earlier datapath, because of
// another qdisc, and takes none of the trial. That is no reason not to take the trial back, nor
// for the next start to fail over it.
func TestTrialBesideRefusedInterface(t *testing.T) {
	b := newBed(t, newS1Alone(t, topology.S1Options{}).B.Host)
	_, lift := takeQdisc(b)
	b.start(byClsact).stop()
	before, maps := b.journal(), b.mapIDs()
	b.start(func(o *Options) { byClsact(o); onTrial(o) }).stop()
	b.inside(func() error {
		done, err := detach.TakeBack(b.dir, os.Getpid(), slog.Default())
		if !done {
			t.Error("not taken back")
		}
		return err
	})
	if diff := cmp.Diff(before, b.journal(), equalAddresses); diff != "" {
		t.Errorf("journal after the trial (-before +after):\n%s", diff)
	}
	if diff := cmp.Diff(maps, b.mapIDs()); diff != "" {
		t.Errorf("maps after the trial (-before +after):\n%s", diff)
	}
	b.start(func(o *Options) { byClsact(o); onTrial(o) }).stop() // whose process is gone: the next start takes it back
	r := b.start(byClsact)
	lift()
	r.verifyNow()
	if !b.status().of("eth1").Attached {
		t.Error("eth1 is not attached, though nothing is in the way")
	}
	r.stop()
}

// TestTakeBackKeepsTheMechanism: what a trial has replaced is attached again the way that it
// was, on the device of the fallback route too, however the trial attaches.
func TestTakeBackKeepsTheMechanism(t *testing.T) {
	for before, asBefore := range mechanisms {
		for tried, asTried := range mechanisms {
			t.Run(string(before)+", tried by "+string(tried), func(t *testing.T) {
				b := newBed(t, newS1(t, topology.S1Options{}).B.Host)
				b.start(asBefore).stop()
				trace, journal := b.trace(), b.journal()
				b.start(func(o *Options) {
					onTrial(o)
					if asTried != nil {
						asTried(o)
					}
				}).stop()
				b.inside(func() error {
					_, err := detach.TakeBack(b.dir, os.Getpid(), slog.Default())
					return err
				})
				if diff := cmp.Diff(trace, b.trace()); diff != "" {
					t.Errorf("host after the trial (-before +after):\n%s", diff)
				}
				if diff := cmp.Diff(journal, b.journal(), equalAddresses); diff != "" {
					t.Errorf("journal after the trial (-before +after):\n%s", diff)
				}
				if !t.Failed() {
					t.Logf("%d qdiscs, filters, rp_filters and counts of programs compared, and the journal: 0 differences", len(trace))
				}
			})
		}
	}
}

// TestRepairsOutliveATrial: what was repaired on trial was repaired.
func TestRepairsOutliveATrial(t *testing.T) {
	b := newBed(t, newS1(t, topology.S1Options{}).B.Host)
	b.start(nil).stop()
	r := b.start(onTrial)
	r.mu.Lock()
	b.takeOff(r, "eth1")
	r.mu.Unlock()
	eventually(t, "the repair is written down", func() bool { return b.repairs(repairProgram) == 1 })
	r.stop()
	b.inside(func() error {
		_, err := detach.TakeBack(b.dir, os.Getpid(), slog.Default())
		return err
	})
	if got := b.repairs(repairProgram); got != 1 {
		t.Errorf("%d repairs after the trial, on it 1", got)
	}
}

// TestTrialCountsDownFromItsBegin: the time of the start is not that of who has to confirm.
func TestTrialCountsDownFromItsBegin(t *testing.T) {
	b := newBed(t, newS1(t, topology.S1Options{}).B.Host)
	r := b.start(onTrial)
	started := time.Now()
	harness.Must(t, r.CountDown())
	if until := b.status().TrialUntil; until == nil || until.Before(started.Add(r.options.Trial)) {
		t.Errorf("started %s, on trial until %v, for %s", started, until, r.options.Trial)
	}
}
