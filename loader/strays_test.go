package loader

import (
	"os"
	"slices"
	"strings"
	"testing"

	"replypath/bpf"
	"replypath/loader/flows"
	"replypath/test/topology"
)

// Filters outlive their pins: detach finds them all the same.
func TestDetachWithoutPins(t *testing.T) {
	s := newS1(t, topology.S1Options{})
	b := newBed(t, s.B.Host)
	b.start(byClsact).stop()
	must(t, os.RemoveAll(b.dir))
	removed := b.detach()
	if len(removed) != 5 || !slices.Contains(removed, "device replypath0 with the fallback default routes") || !slices.Contains(removed, "program on eth1 egress (clsact)") {
		t.Errorf("removed %q", removed)
	}
	if b.log.count("level=WARN msg=\"nothing was pinned") != 1 {
		t.Error("no warning that the rest cannot be told")
	}
	for _, line := range b.trace() {
		if strings.Contains(line, "filter") && strings.Contains(line, "replypath") {
			t.Errorf("left: %s", line)
		}
	}
	if removed := b.detach(); len(removed) != 0 {
		t.Errorf("removed again %q", removed)
	}
}

// An interface that lost both programs while nobody watched looks like another
// one with its index; what was changed for it is put back all the same.
func TestSysctlOfInterfaceThatLostItsPrograms(t *testing.T) {
	s := newS1(t, topology.S1Options{})
	b := newBed(t, s.B.Host)
	b.setRPFilter("eth1", 1)
	b.start(byClsact).stop()
	b.run("tc", "qdisc", "del", "dev", "eth1", "clsact")
	b.start(byClsact).stop()
	b.detach()
	if got := b.rpFilter("eth1"); got != "1" {
		t.Errorf("rp_filter of eth1 is %s after detach, was 1", got)
	}
}

// What nobody here took is not listed as a flow, whoever asks.
func TestStraysAreNoEntries(t *testing.T) {
	s := newS1(t, topology.S1Options{})
	b := newBed(t, s.B.Host)
	r := b.start(nil)
	clock, err := r.datapath.Clock()
	must(t, err)
	table, err := flows.Open(b.dir)
	must(t, err)
	defer table.Close()
	for _, c := range []struct {
		flags bpf.DatapathFlowFlags
		want  int
	}{{0, 1}, {bpf.DatapathFlowFlagsFLOW_STRAY, 0}} {
		set := bpf.DatapathFlowSet{Digest: [8]uint64{1}}
		set.Flow[0] = bpf.DatapathFlow{Tuple: bpf.DatapathTuple{Protocol: 6}, Seen: clock.Now(), Flags: uint16(c.flags)}
		must(t, b.maps().HalfOpen.Put(uint32(0), &set))
		entries, err := table.Entries(func(*bpf.DatapathTuple) bool { return true })
		if err != nil || len(entries) != c.want {
			t.Errorf("with flags %#x: %d entries, %v", c.flags, len(entries), err)
		}
	}
}
