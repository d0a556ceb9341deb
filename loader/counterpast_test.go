package loader

import (
	"fmt"
	"log/slog"
	"os"
	"slices"
	"testing"

	"replypath/loader/pins"
	"replypath/test/topology"
)

// wantNotFallen wants every counter of a pair to be what it was at least, and returns how
// many replies were corrected in all.
func wantNotFallen(t *testing.T, when string, before, after []PairCounters) (corrected uint64) {
	t.Helper()
	for _, was := range before {
		i := slices.IndexFunc(after, func(p PairCounters) bool { return p.Pair == was.Pair })
		if i < 0 {
			t.Errorf("%s: nothing is left of %+v", when, was)
			continue
		}
		is := after[i]
		if is.AsymmetricPackets < was.AsymmetricPackets || is.AsymmetricFlows < was.AsymmetricFlows ||
			is.CorrectedPackets < was.CorrectedPackets || is.CorrectedBytes < was.CorrectedBytes ||
			is.CorrectedFlows < was.CorrectedFlows {
			t.Errorf("%s: %+v, before %+v", when, is, was)
		}
	}
	for _, p := range after {
		corrected += p.CorrectedPackets
	}
	return corrected
}

// useUpIDs has every id stand for an interface that is gone.
func (r *running) useUpIDs() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for id := uint16(len(r.state.Interfaces) + 1); id < 4096; id++ {
		r.state.Interfaces = append(r.state.Interfaces, pins.InterfaceRecord{ID: id, Name: fmt.Sprintf("gone%d", id)})
	}
}

// TestCountersOutliveTheirID: when ids run out, and one is given to another interface, what
// was counted under it stays with the name; the other one's begin at nothing.
func TestCountersOutliveTheirID(t *testing.T) {
	s := newS1(t, topology.S1Options{})
	b := newBed(t, s.B.Host)
	r := b.start(nil)
	pingB(t, s)
	replies := uint64(len(s.Families()))
	before := r.counters()
	id := b.lives("eth1")[0]
	b.ip("link del eth1\n")
	b.awaitGone("eth1")
	r.useUpIDs()
	b.addEth2(0)
	b.awaitAttached("eth2")
	if got := b.lives("eth2"); len(got) != 1 || got[0] != id {
		t.Fatalf("ids of eth2: %v, of eth1 %d", got, id)
	}
	after := r.counters()
	if got := wantNotFallen(t, "with the id given away", before.Pairs, after.Pairs); got != replies {
		t.Errorf("%d replies corrected, want %d", got, replies)
	}
	for _, was := range before.Uncorrected {
		if !slices.Contains(after.Uncorrected, was) {
			t.Errorf("uncorrected has lost %+v", was)
		}
	}
	r.stop()
	if got := wantNotFallen(t, "after another start", before.Pairs, b.start(nil).counters().Pairs); got != replies {
		t.Errorf("after another start %d replies corrected, want %d", got, replies)
	}
}

// TestCountersOutliveARename: what was counted for a name stays with it, also on trial, and
// where another interface takes the name.
func TestCountersOutliveARename(t *testing.T) {
	for _, tried := range []bool{false, true} {
		t.Run(fmt.Sprintf("on trial: %t", tried), func(t *testing.T) {
			s := newS1(t, topology.S1Options{})
			b := newBed(t, s.B.Host)
			r := b.start(nil)
			pingB(t, s)
			replies := uint64(len(s.Families()))
			before := r.counters().Pairs
			if tried {
				r.stop()
				r = b.start(onTrial)
			}
			b.ip("link property add dev eth1 altname second\nlink set eth1 name nic1\n")
			eventually(t, "the name is seen", func() bool { return len(b.lives("nic1")) > 0 })
			pingB(t, s)
			renamed := r.counters().Pairs
			if got := wantNotFallen(t, "after the rename", before, renamed); got != 2*replies {
				t.Errorf("%d replies corrected, want %d", got, 2*replies)
			}
			r.stop()
			if tried {
				b.inside(func() error {
					_, err := TakeBack(b.dir, os.Getpid(), slog.Default())
					return err
				})
			}
			b.ip("link set nic1 name eth1\n") // while nobody watches
			r = b.start(nil)
			pingB(t, s)
			if got := wantNotFallen(t, "with the name of before", renamed, r.counters().Pairs); got != 3*replies {
				t.Errorf("with the name of before %d replies corrected, want %d", got, 3*replies)
			}
		})
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
		_, err := TakeBack(b.dir, os.Getpid(), slog.Default())
		return err
	})
	if got := b.repairs(repairProgram); got != 1 {
		t.Errorf("%d repairs after the trial, on it 1", got)
	}
}

// TestPastIsBounded: of names that no interface has, nor had lately, the oldest make room.
func TestPastIsBounded(t *testing.T) {
	l := &Loader{}
	l.state.Interfaces = []pins.InterfaceRecord{{ID: 1, Name: "eth0"}, {ID: 2, Name: "eth1"}}
	past := []pins.PastRecord{{From: "eth0", To: "eth1", Packets: 1}, {To: "eth1", Packets: 1}}
	for i := range mostPast + 10 {
		past = addPast(past, pins.PastRecord{From: "eth0", To: fmt.Sprint("veth", i), Packets: 1})
	}
	past = addPast(past, pins.PastRecord{From: "eth0", To: "veth0", Packets: 2})
	past = l.boundPast(past)
	has := func(to string) bool {
		return slices.ContainsFunc(past, func(r pins.PastRecord) bool { return r.To == to })
	}
	if len(past) != mostPast || !has("eth1") || !has("veth0") || has("veth1") || !has("veth100") {
		t.Errorf("%d records, the first %+v", len(past), past[:3])
	}
	if last := past[len(past)-1]; last.To != "veth0" || last.Packets != 3 {
		t.Errorf("the last is %+v", last)
	}
}
