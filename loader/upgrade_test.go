// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"

	"replypath/loader/attach"
	"replypath/test/harness"
	"replypath/test/topology"
)

// upgrade is what a start finds that is not of its own making.
type upgrade struct {
	prepare func(*bed)
	options func(*Options)
	says    string // in the log
}

var upgrades = map[string]upgrade{
	"the same maps":        {prepare: (*bed).makeForeignPrograms, options: func(*Options) {}},
	"maps of another size": {options: func(o *Options) { o.Config.MaxEntries *= 4 }, says: "a flow table changes its size"},
	"another layout": {
		prepare: (*bed).setForeignLayout, options: func(*Options) {},
		says: "it has another layout, 4294967295 rather than",
	},
}

// makeForeignPrograms makes the pinned programs those of another build.
func (b *bed) makeForeignPrograms() {
	b.Helper()
	harness.Must(b.T, os.Remove(filepath.Join(b.dir, "maps", "verified")))
}

// setForeignLayout makes the pinned maps those of a version that never was.
func (b *bed) setForeignLayout() {
	b.Helper()
	layout, err := ebpf.LoadPinnedMap(filepath.Join(b.dir, "maps", "layout"), nil)
	harness.Must(b.T, err)
	defer layout.Close()
	harness.Must(b.T, layout.Put(uint32(0), ^uint32(0)))
}

// programIDs tells the attached programs apart, in the order in which they run.
func (b *bed) programIDs() []string {
	b.Helper()
	var ids []string
	b.inside(func() error {
		links, err := b.host.Netlink().LinkList()
		if err != nil {
			return err
		}
		for _, device := range links {
			of, err := b.programIDsOf(device)
			if err != nil {
				return err
			}
			ids = append(ids, of...)
		}
		return nil
	})
	return ids
}

func (b *bed) programIDsOf(device netlink.Link) (ids []string, err error) {
	name := device.Attrs().Name
	for parent, hook := range map[uint32]ebpf.AttachType{
		netlink.HANDLE_MIN_INGRESS: ebpf.AttachTCXIngress, netlink.HANDLE_MIN_EGRESS: ebpf.AttachTCXEgress,
	} {
		result, err := link.QueryPrograms(link.QueryOptions{Target: device.Attrs().Index, Attach: hook})
		if err != nil {
			return nil, err
		}
		for _, p := range result.Programs {
			ids = append(ids, fmt.Sprintf("%s %s %d", name, hook, p.ID))
		}
		filters, err := b.host.Netlink().FilterList(device, parent)
		if err != nil {
			continue // there is no clsact qdisc
		}
		for _, f := range filters {
			if f, ok := f.(*netlink.BpfFilter); ok {
				ids = append(ids, fmt.Sprintf("%s filter %x %d", name, parent, f.Id))
			}
		}
	}
	slices.Sort(ids)
	return ids, nil
}

// A start that fails after any of its steps leaves the datapath that was there as it
// was, programs included, whatever had to be replaced.
func TestFailedUpgradeLeavesTheDatapath(t *testing.T) {
	for what, upgrade := range upgrades {
		for mechanism, options := range mechanisms {
			t.Run(what+"/"+string(mechanism), func(t *testing.T) {
				s := newS1(t, topology.S1Options{})
				b := newBed(t, s.B.Host)
				b.setRPFilter("eth1", 1)
				b.start(options).stop()
				pingB(t, s)
				before, journal, entry, settings, ids := b.trace(), b.journal(), b.entry(2), b.rules(), b.mapIDs()
				programs := b.programIDs()
				if upgrade.prepare != nil {
					upgrade.prepare(b)
				}
				change := func(o *Options) {
					if options != nil {
						options(o)
					}
					upgrade.options(o)
					o.Config.Interfaces = lastHop("eth1")
					o.Config.Protocols = nil
					o.Config.ManageRPFilter = false
				}
				failures := 0
				for taken, steps := 1, 1; taken <= steps; taken++ {
					steps = b.failAfter(taken, change)
					failures++
					for what, diff := range map[string]string{
						"host":     cmp.Diff(before, b.trace()),
						"programs": cmp.Diff(programs, b.programIDs()),
						"journal":  cmp.Diff(journal, b.journal(), equalAddresses),
						"eth1":     cmp.Diff(entry, b.entry(2)),
						"settings": cmp.Diff(settings, b.rules()),
						"maps":     cmp.Diff(ids, b.mapIDs()),
					} {
						if diff != "" {
							t.Errorf("a failure after step %d: %s (-want +got):\n%s", taken, what, diff)
						}
					}
					pingB(t, s)
				}
				b.start(change)
				if got := b.rpFilter("eth1"); got != "1" {
					t.Errorf("rp_filter of eth1 is %s", got)
				}
				if b.log.count(upgrade.says) == 0 {
					t.Errorf("the log does not say %q", upgrade.says)
				}
				t.Logf("%d failures, 0 differences", failures)
			})
		}
	}
}

// TestFailedStartOutdatesItsRefusals: by the generation of a start that failed, its programs
// may remember what its configuration refused. No later configuration has the same. A generation of before goes on only
// where nothing had to be put back: programs may have admitted what is no own address any more.
func TestFailedStartOutdatesItsRefusals(t *testing.T) {
	b := newBed(t, newS1(t, topology.S1Options{}).B.Host)
	b.start(nil).stop()
	change := func(o *Options) { o.Config.Protocols = nil }
	used := []uint32{b.settings().Generation}
	for taken, steps := 1, 1; taken <= steps; taken++ {
		var tried uint32
		b.inside(func() error {
			l := &Loader{newCore(b.options(change))}
			all := start{l.core}.steps()
			steps = len(all)
			err := start{l.core}.attempt(append(all[:taken:taken], func() error {
				tried = b.settings().Generation
				return errInjected
			}))
			if !errors.Is(err, errInjected) {
				t.Errorf("after step %d: %v", taken, err)
			}
			return nil
		})
		last := used[len(used)-1]
		after := b.settings().Generation
		if after < tried || after == tried && tried != last {
			t.Errorf("a failure after step %d: generation %d, in the start %d, before %d", taken, after, tried, last)
		}
		used = append(used, after)
	}
	b.start(change).stop()
	if after := b.settings().Generation; slices.Contains(used, after) {
		t.Errorf("generation %d once more, after %v", after, used)
	}
	t.Logf("generations %v", used)
}

// Counters are of all versions: they go on where the maps of flows are replaced.
func TestCountersOutliveALayout(t *testing.T) {
	s := newS1(t, topology.S1Options{})
	b := newBed(t, s.B.Host)
	r := b.start(nil)
	pingB(t, s)
	before := admissions(r)
	r.stop()
	b.setForeignLayout()
	b.opened = nil
	r = b.start(nil)
	after := admissions(r)
	if after < before || before == 0 {
		t.Errorf("%d admissions, before %d", after, before)
	}
	pingB(t, s)
	t.Logf("%d admissions counted before the change of the layout, %d after it, %d with the next questions",
		before, after, admissions(r))
}

// TestModeByHandStays: who switched to observe had a reason that another layout of the maps
// does not change.
func TestModeByHandStays(t *testing.T) {
	for name, upgrade := range upgrades {
		t.Run(name, func(t *testing.T) {
			s := newS1(t, topology.S1Options{})
			b := newBed(t, s.B.Host)
			r := b.start(nil)
			b.setMode("observe")
			byHand := b.mode()
			r.stop()
			if upgrade.prepare != nil {
				upgrade.prepare(b)
			}
			b.opened = nil
			b.start(upgrade.options)
			got := b.mode()
			if got != "observe" {
				t.Errorf("after the start the mode is %s", got)
			}
			t.Logf("%s: by hand %s, after the start %s", name, byHand, got)
		})
	}
}

// admissions returns how many flows were recorded.
func admissions(r *running) (sum uint64) {
	for _, table := range r.counters().Tables {
		sum += table.Admissions
	}
	return sum
}

// killed lets a process that attaches by a mechanism be killed in its start, where a
// variable says so, and tells whether it got that far.
func (b *bed) killed(by attach.Mechanism, variable string, value int) bool {
	b.Helper()
	c := b.host.Command(b.Context(), "/proc/self/exe")
	c.Env = append(os.Environ(), daemonVariable+"="+b.dir, mechanismVariable+"="+string(by), fmt.Sprintf("%s=%d", variable, value))
	c.Stdout, c.Stderr = b.log, b.log
	err := c.Run()
	if err == nil {
		return false
	}
	if c.ProcessState.Exited() {
		b.Fatalf("it was not killed with %s=%d: %v", variable, value, err)
	}
	return true
}

// found are what a process may find that is killed in its start. It is told how to
// attach what was there before.
var found = map[string]func(*bed, func(*Options)){
	"nothing there":   func(*bed, func(*Options)) {},
	"another size":    func(b *bed, by func(*Options)) { b.start(by).stop() },
	"another layout":  func(b *bed, by func(*Options)) { b.start(by).stop(); b.setForeignLayout() },
	"another's trial": func(b *bed, by func(*Options)) { b.start(by).stop(); b.start(alsoOnTrial(by)).stop() },
}

// A process that is killed after any step of its start leaves nothing that detach does
// not take away: on a host without anything, in the place of an earlier datapath with
// tables of another size, and of one with another layout.
func TestKilledStartIsDetached(t *testing.T) {
	for what, prepare := range found {
		for mechanism, options := range mechanisms {
			t.Run(what+"/"+string(mechanism), func(t *testing.T) {
				s := newS1(t, topology.S1Options{})
				b := newBed(t, s.B.Host)
				b.setRPFilter("eth1", 1)
				before := b.snapshot()
				kills, attached := 0, 0
				for ; ; kills++ {
					prepare(b, options)
					if !b.killed(mechanism, dieVariable, kills) {
						break
					}
					if b.hasAttached(mechanism) {
						attached++
					}
					b.detach()
					b.wantNothingLeft(before, fmt.Sprintf("killed after step %d", kills))
				}
				if attached == 0 {
					t.Errorf("nothing is ever attached by %s", mechanism)
				}
				if !t.Failed() {
					t.Logf("%s: %d kills, %d of them with programs attached by %s, 0 differences", what, kills, attached, mechanism)
				}
			})
		}
	}
}

// TestKilledAttachingIsDetached has a process killed while it attaches, also where an interface has
// only a part of what belongs to it: what it was about to put on the host was written down before.
func TestKilledAttachingIsDetached(t *testing.T) {
	for mechanism := range mechanisms {
		t.Run(string(mechanism), func(t *testing.T) {
			s := newS1(t, topology.S1Options{})
			b := newBed(t, s.B.Host)
			b.setRPFilter("eth1", 1)
			before, kills := b.snapshot(), 0
			var partly []string
			for ; b.killed(mechanism, dieAttachingVariable, kills); kills++ {
				partly = append(partly, b.partlyAttached(mechanism)...)
				b.detach()
				b.wantNothingLeft(before, fmt.Sprintf("killed in moment %d", kills))
			}
			slices.Sort(partly)
			if diff := cmp.Diff(parts[mechanism], partly); diff != "" {
				t.Errorf("what a part was attached of (-want +got):\n%s", diff)
			}
			if !t.Failed() {
				t.Logf("%d kills by %s, %d of them inside one interface's attachment (%s), 0 differences",
					kills, mechanism, len(partly), strings.Join(partly, "; "))
			}
		})
	}
}

// parts are what is attached of two programs, and of a qdisc, where a process is killed inside the
// attachment of an interface.
var parts = map[attach.Mechanism][]string{
	attach.TCX: {"eth0 1 of 2", "eth1 1 of 2"},
	attach.Clsact: {
		"eth0 qdisc clsact with 0 of 2", "eth0 qdisc clsact with 1 of 2",
		"eth1 qdisc clsact with 0 of 2", "eth1 qdisc clsact with 1 of 2",
	},
}

// partlyAttached returns which interfaces have a part of what a mechanism puts there, and what.
func (b *bed) partlyAttached(by attach.Mechanism) (partly []string) {
	b.Helper()
	trace := b.trace()
	for _, name := range []string{"eth0", "eth1"} {
		filters := 0
		for _, line := range trace {
			if strings.HasPrefix(line, name+" filter ") {
				filters++
			}
		}
		qdisc := name + " qdisc clsact"
		switch {
		case by == attach.TCX && slices.Contains(trace, name+" tcx programs 1"):
			partly = append(partly, name+" 1 of 2")
		case by == attach.Clsact && slices.Contains(trace, qdisc) && filters < 2:
			partly = append(partly, fmt.Sprintf("%s with %d of 2", qdisc, filters))
		}
	}
	return partly
}

// hasAttached tells whether eth1 has what a mechanism puts there: the qdisc is looked at
// rather than its filters.
func (b *bed) hasAttached(by attach.Mechanism) bool {
	b.Helper()
	trace := b.trace()
	if by == attach.Clsact {
		return slices.Contains(trace, "eth1 qdisc clsact")
	}
	return slices.Contains(trace, "eth1 tcx programs 2")
}

// wantNothingLeft wants the host as it was, and no pins.
func (b *bed) wantNothingLeft(before harness.Snapshot, after string) {
	b.Helper()
	if diff := before.Diff(b.snapshot()); diff != "" {
		b.Errorf("%s, then detached (-want +got):\n%s", after, diff)
	}
	if _, err := os.Stat(b.dir); !errors.Is(err, os.ErrNotExist) {
		b.Errorf("%s, then detached: the pin directory: %v", after, err)
	}
}

func onTrial(o *Options) { o.Trial = time.Hour }

// alsoOnTrial is onTrial beside another change, which may be nil.
func alsoOnTrial(change func(*Options)) func(*Options) {
	return func(o *Options) {
		if change != nil {
			change(o)
		}
		onTrial(o)
	}
}

// Whoever starts after a process that was killed in the middle of an upgrade finds all
// maps of one layout. Until then programs of two kinds may be attached, and what begins by them goes as routed.
func TestStartAfterAKilledUpgrade(t *testing.T) {
	for mechanism, options := range mechanisms {
		t.Run(string(mechanism), func(t *testing.T) {
			s := newS1(t, topology.S1Options{})
			b := newBed(t, s.B.Host)
			before := b.trace()
			kills := 0
			for ; ; kills++ {
				b.start(options).stop()
				pingB(t, s)
				b.setForeignLayout()
				if !b.killed(mechanism, dieVariable, kills) {
					break
				}
				b.start(options).stop()
				pingB(t, s)
				if left, err := filepath.Glob(filepath.Join(b.dir, "maps-*")); err != nil || len(left) > 0 {
					t.Errorf("left after kill %d: %v, %v", kills, left, err)
				}
			}
			t.Logf("%d kills by %s", kills, mechanism)
			b.detach()
			if diff := cmp.Diff(before, b.trace()); diff != "" {
				t.Errorf("after detach (-want +got):\n%s", diff)
			}
		})
	}
}
