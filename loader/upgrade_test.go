// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"

	"replypath/bpf"
	"replypath/loader/attach"
	"replypath/loader/counters"
	"replypath/loader/pins"
	"replypath/test/await"
	"replypath/test/host"
	"replypath/test/short"
)

// upgrade is what a start finds that is not of its own making.
type upgrade struct {
	what    string
	prepare func(*server)
	options func(*Options)
	says    string // in the log; nothing where the flow tables are shared with the datapath of before
}

var upgrades = []upgrade{
	{what: "the same maps", prepare: func(*server) {}, options: anotherBuild},
	{what: "maps of another size", prepare: func(*server) {}, options: larger, says: "the flow tables change their size"},
	{
		what: "another layout", prepare: (*server).setForeignLayout, options: func(*Options) {},
		says: "it has another layout, 4294967295 rather than",
	},
}

// setForeignLayout makes the pinned maps those of a version that never was.
func (b *server) setForeignLayout() {
	b.Helper()
	layout, err := ebpf.LoadPinnedMap(filepath.Join(b.dir, "maps", "layout"), nil)
	await.Must(b.T, err)
	defer layout.Close()
	await.Must(b.T, layout.Put(uint32(0), ^uint32(0)))
}

// attached is a program of a hook.
type attached struct {
	Device, Hook string
	Place        int
	Link         link.ID // of TCX
	Program      ebpf.ProgramID
}

// attached returns the programs of all interfaces, in the order in which they run.
func (b *server) attached() (all []attached) {
	b.Helper()
	for _, device := range b.links() {
		name := device.Attrs().Name
		for _, hook := range tcx {
			for place, p := range b.queryTCX(device, hook).Programs {
				id, _ := p.LinkID()
				all = append(all, attached{name, hook.String(), place, id, p.ID})
			}
		}
		for _, hook := range hooks {
			for place, f := range b.filters(device, hook) {
				if f, ok := f.(*netlink.BpfFilter); ok {
					all = append(all, attached{name, fmt.Sprintf("%x", hook), place, 0, ebpf.ProgramID(f.Id)})
				}
			}
		}
	}
	return all
}

// standing is what a datapath is told by.
type standing struct {
	Host     []string
	Programs []attached
	Journal  *pins.Journal
	Settings bpf.DatapathSettings
	Eth1     bpf.DatapathInterface
	Maps     map[string]ebpf.MapID
}

func (b *server) standing() standing {
	b.Helper()
	return standing{b.trace(), programsOf(b.attached()), b.journal(), b.rules(), b.entry(b.eth1.Index), b.mapIDs()}
}

// programsOf leaves out the links, which are others once the mechanism has changed, and changed back.
func programsOf(all []attached) []attached {
	programs := slices.Clone(all)
	for i := range programs {
		programs[i].Link = 0
	}
	return programs
}

// TestFailedUpgradeLeavesTheDatapath: a start that fails after any of its steps leaves the datapath that was there as it
// was, programs included, whatever had to be replaced. In short each upgrade goes by one mechanism.
func TestFailedUpgradeLeavesTheDatapath(t *testing.T) {
	for i, upgrade := range upgrades {
		byEach(t, func(t *testing.T, mechanism attach.Mechanism) {
			if short.Run(t) && mechanism != mechanisms[i%len(mechanisms)] {
				return
			}
			t.Run(upgrade.what, func(t *testing.T) {
				b := newServer(t)
				b.setRPFilter("eth1", 1)
				b.start(by(mechanism)).stop()
				before := b.standing()
				upgrade.prepare(b)
				change := func(o *Options) {
					by(mechanism)(o)
					upgrade.options(o)
					lastHop("eth1")(o)
					o.Config.Protocols, o.Config.ManageRPFilter = nil, false
				}
				failures := b.eachFailure(func(after string) { await.Same(b, after, before, b.standing()) }, change)
				b.start(change)
				b.wantRPFilter("at last", "eth1", "1")
				if b.logged(upgrade.says) == 0 {
					t.Errorf("the log does not say %q", upgrade.says)
				}
				t.Logf("%d failures, 0 differences", failures)
			})
		})
	}
}

// refusal is why eth1 does not take new programs, while eth0 has taken them.
type refusal struct {
	what          string
	before, after attach.Mechanism // by which the programs are attached, and those of the upgrade
	place         obstacle
	says          string
	// left is how many programs of before are on eth1 where the start goes on.
	left int
}

var refusals = []refusal{
	{"tcx, at once", attach.TCX, attach.TCX, refuse(false), "interface eth1: injected", 2},
	{"clsact, after ingress", attach.Clsact, attach.Clsact, refuse(true), "interface eth1: injected", 1},
	// By the kernel itself.
	{"from clsact to tcx, whose places are taken", attach.Clsact, attach.TCX, fillTCX, "interface eth1: attach on eth1 ingress", 2},
	{"from tcx to clsact, where another qdisc is", attach.TCX, attach.Clsact, takeQdisc, "interface eth1: eth1 has a qdisc of kind ingress", 2},
	{"tcx, after ingress", attach.TCX, attach.TCX, refuse(true), "interface eth1: injected", 1},
	{"clsact, at once", attach.Clsact, attach.Clsact, refuse(false), "interface eth1: injected", 2},
}

// TestUpgradeRefusedByOneInterface has eth0 take the programs of an upgrade and eth1 refuse them. Where they have flow
// tables of their own, the whole upgrade is taken back: what the old program of eth1 records nobody would look at soon.
// Where they share the tables of before, old and new go together: the start goes on, names eth1, and is complete once eth1
// takes them. No answer leaves by the wrong interface: each refusal meets one upgrade with answers, and the rest goes without
// packets. In short each upgrade meets one refusal.
func TestUpgradeRefusedByOneInterface(t *testing.T) {
	quick := short.Run(t)
	for i, refusal := range refusals {
		for j, upgrade := range upgrades {
			answering := i%len(upgrades) == j
			if quick && (!answering || i >= len(upgrades)) {
				continue
			}
			t.Run(refusal.what+"/"+upgrade.what, func(t *testing.T) {
				if refusal.before == attach.TCX || refusal.after == attach.TCX {
					host.NeedTCX(t)
				}
				testRefused(t, refusal, upgrade, answering)
			})
		}
	}
}

func testRefused(t *testing.T, refusal refusal, upgrade upgrade, answering bool) {
	b, a := newRefusedServer(t, answering)
	r := b.start(by(refusal.before))
	a.wantRight()
	counted, programs := r.counters(), b.attached()
	r.stop()
	start, lift := refusal.place(b)
	before := b.standing()
	upgrade.prepare(b)
	r, err := b.tryStartBy(start, by(refusal.after), upgrade.options)
	if upgrade.says == "" { // the tables of before
		await.Must(t, err)
		b.wantMixed(programs, refusal)
		a.wantRight()
		lift()
		r.verifyNow()
	} else {
		if err == nil || !strings.Contains(err.Error(), refusal.says) {
			b.Fatalf("the start: %v", err)
		}
		await.Same(b, "after the refusal", before, b.standing())
		a.wantRight()
		lift()
		r = b.start(by(refusal.after), upgrade.options)
	}
	b.wantComplete(programs)
	a.wantRight()
	after := r.counters()
	if less := backwards(after, counted); len(less) > 0 {
		t.Errorf("counted less than before for %v", less)
	}
	a.wantCorrected(r)
}

// newRefusedServer returns a server that answers, or nobody who asks it.
func newRefusedServer(t *testing.T, answering bool) (*server, *answers) {
	t.Helper()
	if !answering {
		return newServer(t), nil
	}
	b := newAnsweringServer(t)
	return b, newAnswers(b)
}

// wantMixed wants new programs on eth0, those of before on eth1, and the status to tell.
func (b *server) wantMixed(before []attached, refusal refusal) {
	b.Helper()
	now := b.attached()
	if eth0, eth1 := common(before, now, "eth0"), common(before, now, "eth1"); eth0 != 0 || eth1 != refusal.left {
		b.Errorf("of before are %d programs on eth0 and %d, not %d, on eth1: %v, before %v", eth0, eth1, refusal.left, now, before)
	}
	status := b.status()
	named := func(e string) bool { return strings.HasPrefix(e, refusal.says) }
	if !slices.ContainsFunc(status.Errors, named) || !status.of("eth1").Attached {
		b.Errorf("status of eth1 %+v, errors %q", *status.of("eth1"), status.Errors)
	}
}

// wantComplete wants no program of before, and no complaint.
func (b *server) wantComplete(before []attached) {
	b.Helper()
	for _, p := range b.attached() {
		if slices.Contains(before, p) {
			b.Errorf("left is %+v", p)
		}
	}
	b.wantNoErrors()
}

// common counts the programs of an interface that are in both lists.
func common(a, b []attached, device string) (count int) {
	for _, p := range a {
		if p.Device == device && slices.Contains(b, p) {
			count++
		}
	}
	return count
}

// TestReloadRefusedByOneInterface has eth0 take the programs for tables of another size and eth1 refuse them, while the
// daemon runs: those of before are back on both. In short there are answers with one of each.
func TestReloadRefusedByOneInterface(t *testing.T) {
	for where, halfway := range map[string]bool{"at once": false, "after ingress": true} {
		byEach(t, func(t *testing.T, mechanism attach.Mechanism) {
			t.Run(where, func(t *testing.T) {
				b, a := newRefusedServer(t, halfway == (mechanism == attach.TCX) || !short.Run(t))
				r := b.start(by(mechanism))
				a.wantRight()
				programs, maps := b.attached(), b.mapIDs()
				r.attachBy(refuseEth1(halfway, true, new(atomic.Bool)))
				if err := r.reload(largerConfig); err == nil || !strings.Contains(err.Error(), errInjected.Error()) {
					t.Fatalf("the reload: %v", err)
				}
				await.Same(b, "programs after the refusal", programs, b.attached())
				await.Same(b, "maps after the refusal", maps, b.mapIDs())
				a.wantRight()
				await.Must(t, r.reload(largerConfig))
				b.wantComplete(programs)
				a.wantRight()
				a.wantCorrected(r)
			})
		})
	}
}

// TestUpgradeUpdatesTheLinks: other programs get into the links that are there, there and back. A link that were made anew
// would leave a gap, or lose its place among those of others.
func TestUpgradeUpdatesTheLinks(t *testing.T) {
	host.NeedTCX(t)
	for _, upgrade := range upgrades {
		t.Run(upgrade.what, func(t *testing.T) {
			b := newServer(t)
			b.start().stop()
			before, changes := b.attached(), 0
			if len(before) < 4 {
				t.Fatalf("attached are %+v", before)
			}
			upgrade.prepare(b)
			for _, options := range []func(*Options){upgrade.options, thirdBuild} {
				b.start(options).stop()
				after := b.attached()
				if len(after) != len(before) {
					t.Fatalf("%+v, before %+v", after, before)
				}
				for i, now := range after {
					if changes++; now.Link != before[i].Link || now.Link == 0 || now.Program == before[i].Program {
						t.Errorf("%+v, before %+v", now, before[i])
					}
				}
				before = after
			}
			t.Logf("%d links on eth0, eth1 and the fallback route's device, an upgrade and back: %d programs replaced, 0 links",
				len(before), changes)
		})
	}
}

// TestCountersOutliveALayout: counters are of all versions, and go on where the maps of flows are replaced.
func TestCountersOutliveALayout(t *testing.T) {
	b := newAnsweringServer(t)
	r := b.start()
	b.ping()
	before := admissions(r)
	pair, count := bpf.DatapathPair{From: 1, To: 2, Family: 4}, bpf.DatapathPairCount{Packets: 7}
	await.Must(t, b.maps().PairSlots.Put(uint32(0), bpf.DatapathPairSlot{Pair: pair, Count: count}))
	r.stop()
	b.setForeignLayout()
	r = b.start()
	after := admissions(r)
	await.Same(b, "of a pair", count, await.Must1[counters.Pairs](t)(counters.ReadPairs(b.maps()))[pair])
	if after < before || before == 0 {
		t.Errorf("%.0f admissions, before %.0f", after, before)
	}
	b.ping()
	t.Logf("%.0f admissions counted before the change of the layout, %.0f after it, %.0f with the next questions",
		before, after, admissions(r))
}

// admissions returns how many flows were recorded.
func admissions(r *running) float64 {
	counted := r.counters()
	return sum(counted, counters.FlowAdmissions) - sum(counted, counters.FlowAdmissions, "outbound")
}

// TestUpgradeRestoresSysctls: what an earlier version changed and this one does not is put back by the next start.
func TestUpgradeRestoresSysctls(t *testing.T) {
	b := newServer(t)
	r := b.start()
	changed := map[string]string{ // by the value of before
		"net.ipv4.conf.eth0.ignore_routes_with_linkdown": "0", "net.ipv6.conf.eth0.ignore_routes_with_linkdown": "0",
		"net.ipv6.conf.eth0.router_probe_interval": "60",
	}
	r.locked(func() error {
		for key, before := range changed {
			r.state.Sysctls = append(r.state.Sysctls, pins.SysctlRecord{Interface: b.eth0.Index, Key: key, Before: before, After: "1"})
		}
		return r.save()
	})
	r.stop()
	for key := range changed {
		b.setSysctl(strings.ReplaceAll(key, ".", "/"), "1")
	}
	b.start()
	for key, before := range changed {
		eventually(t, key+" is put back", func() bool {
			isRecorded := slices.ContainsFunc(b.journal().Sysctls, func(r pins.SysctlRecord) bool { return r.Key == key })
			return !isRecorded && b.sysctl(strings.ReplaceAll(key, ".", "/")) == before
		})
	}
}
