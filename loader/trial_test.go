// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"testing"
	"time"

	"replypath/bpf"
	"replypath/loader/attach"
	"replypath/loader/datapath"
	"replypath/loader/status"
	"replypath/test/await"
)

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
