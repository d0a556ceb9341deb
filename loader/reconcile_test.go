// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"replypath/bpf"
	"replypath/loader/config"
	"replypath/loader/discover"
	"replypath/loader/discover/dump"
	"replypath/loader/fallback"
	"replypath/loader/nexthop"
	"replypath/loader/pins"
	"replypath/metrics"
	"replypath/test/await"
)

// observing returns a second runner of a loader, whose events are those of a test.
func observing(r *running) *runner {
	return &runner{core: r.core, changes: newCoalescer(), doubts: newCoalescer(), bystanders: newCoalescer()}
}

// TestEventsOfBystanders: what concerns interfaces alone that cannot become managed waits.
func TestEventsOfBystanders(t *testing.T) {
	b := newServer(t)
	b.ip("link add veth7 type veth peer name c7")
	r := b.start()
	veth7, eth1 := b.linkOf("veth7").Attrs().Index, b.eth1.Index
	link := func(index int, name, kind string) nexthop.Event {
		return nexthop.Event{Kind: nexthop.KindLink, Interface: index, Name: name, LinkKind: kind}
	}
	routeBy := func(index int) nexthop.Event {
		return nexthop.Event{Kind: nexthop.KindRoute, Route: &dump.Route{
			Family: unix.AF_INET, Type: unix.RTN_UNICAST, Table: unix.RT_TABLE_MAIN, Dst: netip.MustParsePrefix("10.200.0.7/32"),
			Hops: []dump.Hop{{Interface: index}},
		}}
	}
	for what, test := range map[string]struct {
		event      nexthop.Event
		now, later bool
	}{
		"one comes":                  {event: link(9999, "c9", "veth"), later: true},
		"one changes":                {event: link(veth7, "veth7", "veth"), later: true},
		"a bridge comes":             {event: link(9998, "br9", "bridge"), now: true},
		"a managed one changes":      {event: link(eth1, "eth1", "veth"), now: true},
		"an address of its link":     {event: nexthop.Event{Kind: nexthop.KindAddress, Interface: veth7}, later: true},
		"another address":            {event: nexthop.Event{Kind: nexthop.KindAddress, Interface: veth7, Global: true}, now: true},
		"an address of a managed":    {event: nexthop.Event{Kind: nexthop.KindAddress, Interface: eth1}, now: true},
		"its rp_filter":              {event: nexthop.Event{Kind: nexthop.KindSysctl, Interface: veth7}, later: true},
		"rp_filter of all":           {event: nexthop.Event{Kind: nexthop.KindSysctl}, now: true},
		"a route by it":              {event: routeBy(veth7)},
		"a route by a managed one":   {event: routeBy(eth1), now: true},
		"events are lost":            {event: nexthop.Event{Kind: nexthop.KindLost}, now: true},
		"a rule that may be for all": {event: nexthop.Event{Kind: nexthop.KindRule}, now: true},
	} {
		r.locked(func() error { _, err := r.table.Read(); return err })
		other := observing(r)
		b.inside(func() error { other.event(test.event, true); return nil })
		if now, later := other.changes.isNoted(), other.bystanders.isNoted(); now != test.now || later != test.later {
			t.Errorf("%s: looked at now: %v, later: %v", what, now, later)
		}
	}
	r.locked(func() error {
		before, named := r.config, *r.config
		named.Interfaces = []config.Interface{{Name: "named*"}}
		r.config = &named
		if e := link(9997, "named7", "veth"); observing(r).isOfBystander(&e) {
			t.Error("one that the configuration names waits")
		}
		r.config = before
		return nil
	})
}

// TestFailureIsTriedAgain: what a reconciliation could not do is tried again without an event.
func TestFailureIsTriedAgain(t *testing.T) {
	b := newServer(t)
	r := b.start()
	other := observing(r)
	r.locked(func() error {
		working := r.journal
		broken, _, err := pins.CreateJournal(r.dir)
		await.Must(t, err)
		await.Must(t, broken.Close())
		r.journal = broken
		other.look()
		r.journal = working
		if !other.changes.isNoted() {
			t.Error("a failure is the end")
		}
		other.look()
		if other.changes.isNoted() {
			t.Error("it goes on after it has succeeded")
		}
		return nil
	})
}

// TestReloadReadsRoutes: what nobody has told of the routes is found when somebody has the configuration read again.
func TestReloadReadsRoutes(t *testing.T) {
	b := newServer(t)
	r := b.start()
	gone := netip.MustParseAddr("10.4.0.77")
	route := dump.Route{
		Family: unix.AF_INET, Type: unix.RTN_UNICAST, Table: 7, Protocol: unix.RTPROT_BGP,
		Dst: netip.MustParsePrefix("10.50.0.0/16"), Hops: []dump.Hop{{Interface: b.eth1.Index, Gateway: gone}},
	}
	r.locked(func() error {
		r.table.Note(&nexthop.Event{Kind: nexthop.KindRoute, Route: &route}, func(int) bool { return true })
		return nil
	})
	await.Must(t, r.reload())
	for _, g := range b.status().of("eth1").Gateways {
		if g.Address == gone.String() {
			t.Errorf("a gateway whose route has gone in silence: %+v", g)
		}
	}
}

// headerless are the pins of the programs for devices without an Ethernet header, ethernet those of the others on
// interfaces.
var headerless, ethernet = []string{"egress_l3", "ingress_l3"}, []string{"egress", "ingress"}

// TestHeaderlessPrograms: those programs are loaded for the first device without an Ethernet header, whatever the process
// before had, and not before: the verifier takes as long for them as for all others.
func TestHeaderlessPrograms(t *testing.T) {
	b := newServer(t)
	both := slices.Concat(ethernet, headerless)
	r := b.start()
	b.wantPrograms("without such a device", ethernet)
	b.addTun("tun1")
	b.awaitAttached("tun1")
	entry := b.entry(b.idsOf("tun1")[0])
	if entry.Flags&uint8(bpf.DatapathInterfaceFlagsINTERFACE_NO_HEADER) == 0 || entry.Mac != [6]uint8{} {
		t.Errorf("entry %+v", entry)
	}
	late := b.wantPrograms("once one has come", both)
	r.stop()
	b.failAfter(b.failAfter(1))
	wantSame(b, "programs after a start that failed", late, b.wantPrograms("after a start that failed", both))
	b.start().stop()
	wantSame(b, "programs", late, b.wantPrograms("after a takeover beside one", both))
	b.start(anotherBuild).stop()
	for name, id := range b.wantPrograms("after an upgrade beside one", both) {
		if late[name] == id {
			t.Errorf("after an upgrade %s is the earlier process's", name)
		}
	}
	b.ip("link del tun1")
	b.start().stop()
	b.wantPrograms("after a takeover, the device gone", ethernet)
	b.addTun("tun1")
	b.start()
	b.wantPrograms("after a takeover, the device come", both)
}

// wantPrograms wants these programs of interfaces pinned, no others in the kernel, and each of those without a header on
// tun1. It returns their ids.
func (b *server) wantPrograms(when string, names []string) map[string]ebpf.ProgramID {
	b.Helper()
	pinned := make(map[string]ebpf.ProgramID)
	for _, name := range slices.Concat(ethernet, headerless) {
		if program, err := ebpf.LoadPinnedProgram(filepath.Join(b.dir, "maps", "programs", name), nil); err == nil {
			pinned[name], _ = b.look(program)
		}
	}
	if diff := cmp.Diff(slices.Sorted(slices.Values(names)), slices.Sorted(maps.Keys(pinned))); diff != "" {
		b.Errorf("%s, pinned (-want +got):\n%s", when, diff)
	}
	want := slices.Sorted(maps.Values(pinned))
	eventually(b.T, when+", the kernel has no programs but those that are pinned", func() bool { // others go a moment later
		return slices.Equal(b.loadedPrograms(), want)
	})
	for _, name := range names {
		if slices.Contains(headerless, name) && !slices.ContainsFunc(b.attached(), func(p attached) bool {
			return p.Device == "tun1" && p.Program == pinned[name]
		}) {
			b.Errorf("%s, %s is not on tun1: %+v", when, name, b.attached())
		}
	}
	return pinned
}

// loadedPrograms returns the ids of all programs of interfaces in the kernel that use this datapath's flow table, whoever
// holds them.
func (b *server) loadedPrograms() (ids []ebpf.ProgramID) {
	b.Helper()
	table := b.mapIDs()[bpf.DatapathMapFlows]
	for id, err := ebpf.ProgramGetNextID(0); err == nil; id, err = ebpf.ProgramGetNextID(id) {
		program, err := ebpf.NewProgramFromID(id)
		if err != nil {
			continue // it has gone
		}
		_, info := b.look(program)
		// Of a program without types the first 15 bytes of its name are known.
		isOfInterfaces := strings.HasPrefix(info.Name, "replypath_ingre") || strings.HasPrefix(info.Name, "replypath_egres")
		if used, _ := info.MapIDs(); isOfInterfaces && slices.Contains(used, table) {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids
}

// look returns what the kernel says of a program, and closes it.
func (b *server) look(program *ebpf.Program) (ebpf.ProgramID, *ebpf.ProgramInfo) {
	b.Helper()
	defer program.Close()
	info, err := program.Info()
	await.Must(b.T, err)
	id, _ := info.ID()
	return id, info
}

// later is a loader as it looks some time later.
type later struct {
	*Loader
	by time.Duration
}

func (l later) Passed() time.Time { return l.Loader.Passed().Add(-l.by) }

// TestHungLoopIsSeen: while the loop waits for a lock, /healthz says how long it has not gone round, and the service manager
// is not told that it has. Neither waits for the lock. A second stands for 90.
func TestHungLoopIsSeen(t *testing.T) {
	b := newServer(t)
	var passes atomic.Int64
	r := b.start(func(o *Options) { o.Passed = func() { passes.Add(1) } })
	handler, err := metrics.NewHandler(later{r.Loader, 89 * time.Second}, "", b.logger())
	await.Must(t, err)
	health := func() string {
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/healthz", nil))
		return fmt.Sprint(w.Code, " ", w.Body)
	}
	working := func() bool { return health() == "200 ok\n" }
	eventually(t, "it is well", working)
	func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		counted := passes.Load()
		eventually(t, "it hangs", func() bool { return health() == "503 the daemon hangs: its last pass was 1m30s ago\n" })
		if more := passes.Load() - counted; more > 1 { // which had begun
			t.Errorf("%d passes while it hangs", more)
		}
	}()
	eventually(t, "it is well again", working)
}

// TestFallbackDeviceThatCannotBeLookedFor: it stays, with its routes, where the kernel does not answer.
func TestFallbackDeviceThatCannotBeLookedFor(t *testing.T) {
	b := newServer(t)
	r := b.start()
	r.locked(func() error {
		found, err := discover.Scan(r.netlink, r.config)
		await.Must(t, err)
		routers, err := nexthop.Find(r.netlink, found.Interfaces, &r.table)
		await.Must(t, err)
		before := b.snapshot()
		wantWhole := func(when string) {
			t.Helper()
			hasDevice, err := r.routes.Renew()
			await.Must(t, err)
			for _, family := range fallback.Families {
				if !hasDevice || !r.routes.GivesWay(b.eth0.Index, family) {
					t.Errorf("%s: device %t, %s gives way %t", when, hasDevice, fallback.Name(family), r.routes.GivesWay(b.eth0.Index, family))
				}
			}
			wantSame(b, when, before, b.snapshot())
		}
		wantWhole("to begin with")

		whole := r.netlink
		r.netlink = brokenNetlink(t)
		err = r.routes.Reconcile(&routers)
		r.netlink = whole
		if err == nil || !strings.Contains(err.Error(), "look for replypath0") {
			t.Errorf("error %v", err)
		}
		wantWhole("when it cannot be looked for")

		await.Must(t, r.routes.Reconcile(&routers))
		wantWhole("when it can be looked for again")
		return nil
	})
}

func brokenNetlink(t *testing.T) *netlink.Handle {
	t.Helper()
	handle, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	await.Must(t, err)
	broken := *handle // the original forgets its sockets with their end, and would open new ones
	handle.Close()
	return &broken
}
