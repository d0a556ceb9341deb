// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"

	"replypath/bpf"
	"replypath/loader/detach"
	"replypath/loader/flows"
	"replypath/test/harness"
	"replypath/test/topology"
)

// Filters outlive their pins: detach finds them all the same.
func TestDetachWithoutPins(t *testing.T) {
	s := newS1(t, topology.S1Options{})
	b := newBed(t, s.B.Host)
	b.start(byClsact).stop()
	harness.Must(t, os.RemoveAll(b.dir))
	removed := b.detach()
	if len(removed) != 6 || !slices.Contains(removed, "device replypath0 with the fallback default routes") || !slices.Contains(removed, "program on eth1 egress (clsact)") {
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

// TestDetachElsewhere: with a pin directory that holds no datapath, detach does not strip one of this
// namespace that is pinned beside it.
func TestDetachElsewhere(t *testing.T) {
	others := map[string]func(*bed){
		"absent":       func(*bed) {},
		"within it":    func(b *bed) { b.dir = strings.TrimSuffix(b.dir, "-typo") + "/deeper" },
		"two absent":   func(b *bed) { b.dir += "/deeper" },
		"empty":        func(b *bed) { harness.Must(b.T, os.Mkdir(b.dir, 0o700)) },
		"doctor's":     func(b *bed) { b.repairByDoctor("net.ipv4.conf.eth1.arp_ignore", "1") },
		"one level up": func(b *bed) { b.dir = filepath.Dir(b.dir) },
	}
	for what, prepare := range others {
		for mechanism, change := range map[string]func(*Options){"tcx": nil, "clsact": byClsact} {
			t.Run(what+"/"+mechanism, func(t *testing.T) {
				b := newBed(t, newS1(t, topology.S1Options{}).B.Host)
				r := b.start(change)
				other := *b
				other.dir = b.dir + "-typo"
				prepare(&other)
				refused := 0
				for _, daemon := range []bool{true, false} {
					if !daemon {
						r.stop()
					}
					before := b.snapshot()
					removed, err := other.tryDetach()
					if err == nil || !strings.Contains(err.Error(), "replypath detach --pin-dir "+b.dir) {
						t.Errorf("with a daemon: %t: removed %q, %v", daemon, removed, err)
					} else {
						refused++
					}
					if diff := before.Diff(b.snapshot()); diff != "" {
						t.Errorf("with a daemon: %t (-before +after):\n%s", daemon, diff)
					}
				}
				b.detach()
				removed, err := other.tryDetach()
				if harness.Must(t, err); len(removed) > 0 && what != "doctor's" && what != "empty" {
					t.Errorf("removed %q where nothing was left", removed)
				}
				t.Logf("%d of 2 refused", refused)
			})
		}
	}
}

// TestDetachElsewhereBesideADamagedJournal: where the directory that is named has a journal that cannot be read, detach
// does not say that nothing is pinned there, and what it advises takes away both.
func TestDetachElsewhereBesideADamagedJournal(t *testing.T) {
	b := newBed(t, newS1(t, topology.S1Options{}).B.Host)
	damaged := *b
	damaged.dir = b.dir + "-damaged"
	b.start(func(o *Options) { o.PinDir = damaged.dir }).stop()
	damaged.damageJournal() // or no other would start beside it
	b.start(nil).stop()

	before := b.snapshot()
	removed, err := damaged.tryDetach()
	if err == nil {
		t.Fatalf("removed %q", removed)
	}
	if diff := before.Diff(b.snapshot()); diff != "" {
		t.Errorf("(-before +after):\n%s", diff)
	}
	first, second := "replypath detach --pin-dir "+b.dir, "replypath detach --pin-dir "+damaged.dir
	if said := err.Error(); strings.Contains(said, "no datapath is pinned in "+damaged.dir) || !strings.Contains(said, "its checksum does not match") ||
		!strings.Contains(said, first) || !strings.Contains(said, second) {
		t.Errorf("error: %v", err)
	}

	b.detach()
	_, err = damaged.tryDetach()
	harness.Must(t, err)
	for _, line := range b.trace() {
		if strings.Contains(line, "filter bpf") || strings.Contains(line, "programs 1") || strings.Contains(line, "programs 2") {
			t.Errorf("left: %s", line)
		}
	}
	for _, dir := range []string{b.dir, damaged.dir} {
		if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s is left: %v", dir, err)
		}
	}
}

// damageJournal has the checksum of the journal not match.
func (b *bed) damageJournal() {
	b.Helper()
	journal, err := ebpf.LoadPinnedMap(filepath.Join(b.dir, "journal"), nil)
	harness.Must(b.T, err)
	defer journal.Close()
	value, err := journal.LookupBytes(uint32(0))
	harness.Must(b.T, err)
	value[8] ^= 1 // the first byte of the text
	harness.Must(b.T, journal.Put(uint32(0), value))
}

// tryDetach is detach for one that may be refused.
func (b *bed) tryDetach() (removed []string, err error) {
	err = b.host.Do(func() (err error) {
		removed, err = detach.Run(context.Background(), detach.Options{PinDir: b.dir, Log: b.logger()})
		return err
	})
	return removed, err
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
	harness.Must(t, err)
	table := read(b, func() (*flows.Table, error) { return flows.Open(b.dir) })
	defer table.Close()
	for _, c := range []struct {
		flags bpf.DatapathFlowFlags
		want  int
	}{{0, 1}, {bpf.DatapathFlowFlagsFLOW_STRAY, 0}} {
		set := bpf.DatapathFlowSet{Digest: [8]uint64{1}}
		set.Flow[0] = bpf.DatapathFlow{Tuple: bpf.DatapathTuple{Protocol: 6}, Seen: clock.Now(), Flags: uint16(c.flags)}
		harness.Must(t, b.maps().HalfOpen.Put(uint32(0), &set))
		entries := read(b, func() ([]flows.Entry, error) {
			return table.Entries(func(*bpf.DatapathTuple) bool { return true })
		})
		if len(entries) != c.want {
			t.Errorf("with flags %#x: %d entries", c.flags, len(entries))
		}
	}
}
