// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/google/go-cmp/cmp"

	"replypath/bpf"
	"replypath/loader/attach"
	"replypath/loader/config"
	"replypath/loader/pins"
	"replypath/test/harness"
	"replypath/test/topology"
)

// refusal is why eth1 does not take new programs, while eth0 has taken them.
type refusal struct {
	tcx           bool           // the kernel has to have it
	before, after func(*Options) // how the programs are attached, and how those of the upgrade
	// place returns how to start, and how to end the refusal.
	place func(*bed) (start func(Options) (*Loader, error), lift func())
	says  string
	// left is how many programs of before are on eth1 where the start goes on.
	left int
}

var refusals = map[string]refusal{
	"tcx, at once":          {tcx: true, place: refuse(false), says: "interface eth1: injected", left: 2},
	"tcx, after ingress":    {tcx: true, place: refuse(true), says: "interface eth1: injected", left: 1},
	"clsact, at once":       {before: byClsact, after: byClsact, place: refuse(false), says: "interface eth1: injected", left: 2},
	"clsact, after ingress": {before: byClsact, after: byClsact, place: refuse(true), says: "interface eth1: injected", left: 1},
	// By the kernel itself.
	"from clsact to tcx, whose places are taken": {
		tcx: true, before: byClsact, place: fillTCX, says: "interface eth1: attach on eth1 ingress", left: 2,
	},
	"from tcx to clsact, where another qdisc is": {
		tcx: true, after: byClsact, place: takeQdisc, says: "interface eth1: eth1 has a qdisc of kind ingress", left: 2,
	},
}

// standing is what a datapath is told by.
type standing struct {
	Host, Programs []string
	Journal        *pins.Journal
	Settings       bpf.DatapathSettings
	Maps           map[string]ebpf.MapID
}

func (b *bed) standing() standing {
	b.Helper()
	return standing{b.trace(), b.programIDs(), b.journal(), b.rules(), b.mapIDs()}
}

// TestUpgradeRefusedByOneInterface has eth0 take the programs of an upgrade and eth1
// refuse them. Where they have flow tables of their own, the whole upgrade is taken back:
// what the old program of eth1 records nobody would look at soon. Where they share the
// tables of before, old and new go together: the start goes on, names eth1, and is
// complete once eth1 takes them. No answer leaves by the wrong interface.
func TestUpgradeRefusedByOneInterface(t *testing.T) {
	for name, refusal := range refusals {
		for what, upgrade := range upgrades {
			t.Run(name+"/"+what, func(t *testing.T) {
				if _, has := mechanisms[attach.TCX]; refusal.tcx && !has {
					t.Skip("the kernel has no tcx (Linux 6.6)")
				}
				testRefused(t, refusal, upgrade)
			})
		}
	}
}

func testRefused(t *testing.T, refusal refusal, upgrade upgrade) {
	s := newS1(t, topology.S1Options{})
	b := newBed(t, s.B.Host)
	a := newAnswers(t, s)
	r := b.start(refusal.before)
	a.wantRight()
	counted, programs := r.counters(), b.programIDs()
	r.stop()
	start, lift := refusal.place(b)
	before := b.standing()
	if upgrade.prepare != nil {
		upgrade.prepare(b)
	}
	change := func(o *Options) {
		if refusal.after != nil {
			refusal.after(o)
		}
		upgrade.options(o)
	}
	r, err := b.tryStartBy(start, change)
	if upgrade.says == "" { // the tables of before
		harness.Must(t, err)
		b.wantMixed(programs, refusal)
		a.wantRight()
		lift()
		r.verifyNow()
	} else {
		b.wantTakenBack(before, refusal, err)
		a.wantRight()
		lift()
		r = b.start(change)
	}
	b.wantComplete(programs)
	a.wantRight()
	after := r.counters()
	if less := backwards(after, counted); len(less) > 0 || corrected(after) != uint64(a.asked) {
		t.Errorf("%d packets corrected; less than before for %v", corrected(after), less)
	}
	right, wrong := a.left()
	t.Logf("refused by eth1: %d questions, %d answers by the interface that was asked, %d by the other, %d counted as corrected",
		a.asked, right, wrong, corrected(after))
}

// wantTakenBack wants a start to have ended for the sake of eth1, and what was there
// before to be in place.
func (b *bed) wantTakenBack(before standing, refusal refusal, err error) {
	b.Helper()
	if err == nil || !strings.Contains(err.Error(), refusal.says) {
		b.Fatalf("the start: %v", err)
	}
	if diff := cmp.Diff(before, b.standing(), equalAddresses); diff != "" {
		b.Errorf("after the refusal (-want +got):\n%s", diff)
	}
}

// wantMixed wants new programs on eth0, those of before on eth1, and the status to tell.
func (b *bed) wantMixed(before []string, refusal refusal) {
	b.Helper()
	now := b.programIDs()
	if eth0, eth1 := common(before, now, "eth0 "), common(before, now, "eth1 "); eth0 != 0 || eth1 != refusal.left {
		b.Errorf("of before are %d programs on eth0 and %d, not %d, on eth1: %v, before %v", eth0, eth1, refusal.left, now, before)
	}
	status := b.status()
	named := func(e string) bool { return strings.HasPrefix(e, refusal.says) }
	if !slices.ContainsFunc(status.Errors, named) || !status.of("eth1").Attached {
		b.Errorf("status of eth1 %+v, errors %q", *status.of("eth1"), status.Errors)
	}
}

// wantComplete wants no program of before, and no complaint.
func (b *bed) wantComplete(before []string) {
	b.Helper()
	if left := common(before, b.programIDs(), ""); left > 0 {
		b.Errorf("%d programs of before are left", left)
	}
	if errs := b.status().Errors; len(errs) > 0 {
		b.Errorf("errors %q", errs)
	}
}

// common counts the lines with a prefix that are in both lists.
func common(a, b []string, prefix string) (count int) {
	for _, line := range a {
		if strings.HasPrefix(line, prefix) && slices.Contains(b, line) {
			count++
		}
	}
	return count
}

// TestReloadRefusedByOneInterface has eth0 take the programs for tables of another size
// and eth1 refuse them, while the daemon runs: those of before are back on both.
func TestReloadRefusedByOneInterface(t *testing.T) {
	for mechanism, options := range mechanisms {
		for where, halfway := range map[string]bool{"at once": false, "after ingress": true} {
			t.Run(string(mechanism)+", "+where, func(t *testing.T) { testReloadRefused(t, options, halfway) })
		}
	}
}

func testReloadRefused(t *testing.T, options func(*Options), halfway bool) {
	s := newS1(t, topology.S1Options{})
	b := newBed(t, s.B.Host)
	a := newAnswers(t, s)
	r := b.start(options)
	a.wantRight()
	programs, maps := b.programIDs(), b.mapIDs()
	larger := func(c *config.Config) { c.MaxEntries *= 2 }
	r.mu.Lock()
	r.attacher = &refusing{Attacher: r.attacher, name: "eth1", halfway: halfway, once: true}
	r.mu.Unlock()
	if err := r.reload(larger); !errors.Is(err, errInjected) {
		t.Fatalf("the reload: %v", err)
	}
	if diff := cmp.Diff(programs, b.programIDs()) + cmp.Diff(maps, b.mapIDs()); diff != "" {
		t.Errorf("after the refusal (-want +got):\n%s", diff)
	}
	a.wantRight()
	harness.Must(t, r.reload(larger))
	b.wantComplete(programs)
	a.wantRight()
	right, wrong := a.left()
	if corrected := corrected(r.counters()); corrected != uint64(a.asked) {
		t.Errorf("%d packets corrected", corrected)
	}
	t.Logf("refused by eth1: %d questions, %d answers by the interface that was asked, %d by the other", a.asked, right, wrong)
}
