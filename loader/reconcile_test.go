// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"replypath/loader/attach"
	"replypath/loader/config"
	"replypath/loader/discover/dump"
	"replypath/loader/nexthop"
	"replypath/loader/pins"
	"replypath/loader/view"
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

// TestRefusedInterfaceIsTriedAgain: an interface whose first attachment fails gets its programs soon after they would be taken,
// without an event.
func TestRefusedInterfaceIsTriedAgain(t *testing.T) {
	b := newServer(t)
	b.setSysctl("net/ipv6/conf/default/addr_gen_mode", "1") // no event comes later than the address below
	b.ip("link add eth2 up type veth peer name far2\nlink set far2 up")
	r := b.start()
	var refused, lifted atomic.Bool
	r.attachBy(func(own attach.Means, i attach.Interface, programs attach.Programs) (attach.Result, error) {
		if i.Name == "eth2" && !lifted.Load() {
			refused.Store(true)
			return attach.Result{}, errInjected
		}
		return own.Attach(i, programs)
	})
	b.ip("addr add 10.77.0.1/24 dev eth2")
	eventually(t, "eth2 is refused", refused.Load)
	b.ip("addr add 10.88.0.1/32 dev eth1")
	eventually(t, "what happened before is looked at", func() bool {
		_, has := entries[[16]byte, uint32](b, b.maps().OwnAddresses)[netip.MustParseAddr("10.88.0.1").As16()]
		return has
	})
	lifted.Store(true)
	b.awaitAttached("eth2")
	eventually(t, "nothing is said any more", func() bool { return len(b.status().Errors) == 0 })
}

// TestScrapeDoesNotWait: what is attached by clsact is shown while the loop's own question to the kernel is under way.
func TestScrapeDoesNotWait(t *testing.T) {
	b := newServer(t)
	r := b.start(byClsact)
	shown := make(chan error, 1)
	r.locked(func() error {
		return r.netlink.RouteListFilteredIter(unix.AF_INET, new(netlink.Route), 0, func(netlink.Route) bool {
			go func() { _, err := r.Snapshot(); shown <- err }()
			select {
			case err := <-shown:
				await.Must(t, err)
			case <-within(t).Done():
				t.Error("it waits")
			}
			return false
		})
	})
}

// TestPanicIsAnError: what panics while the host, or the maps, are read is an error of that reading. The daemon goes on.
func TestPanicIsAnError(t *testing.T) {
	b := newServer(t)
	r := b.start()
	r.locked(func() error {
		before, view := r.config, new(view.View) // without a datapath
		r.config = nil
		if r.reconcileOrLog() || !strings.Contains(strings.Join(r.problems.All(), "\n"), "a fault of replypath's") {
			t.Errorf("problems %q", r.problems.All())
		}
		r.config = before
		r.published.Publish(view)
		if _, err := r.Snapshot(); err == nil {
			t.Error("what is not there is shown")
		}
		if !r.reconcileOrLog() || len(r.problems.All()) > 0 {
			t.Errorf("it does not go on: %q", r.problems.All())
		}
		return nil
	})
	await.Same(t, "stacks in the log", 2, b.logged("a reading has panicked"))
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

// TestSourceRepairNeedsCookie: a kernel that does not tell the cookie of a network namespace (before 5.14) gets no programs on the
// cgroup, and those of an earlier version are taken off. The status says so, and who asked for them finds it among the errors.
func TestSourceRepairNeedsCookie(t *testing.T) {
	b := newServer(t)
	r := b.start(repairSource)
	if len(b.sourcePrograms()) == 0 {
		t.Fatal("no program is on the cgroup")
	}
	for _, repair := range []config.RepairUDPSource{config.RepairAuto, config.RepairTrue} {
		r.locked(func() error {
			r.config.RepairUDPSource = repair
			r.state.Namespace.Cookie = 0
			r.source.LookAgain()
			return r.reconcile()
		})
		await.Same(t, "programs on the cgroup", nil, b.sourcePrograms())
		const needs = "needs kernel 5.14: wildcard udp sockets answer from the address that the route picks"
		i := slices.IndexFunc(b.status().Features, func(f pins.FeatureRecord) bool { return f.Name == "repair_udp_source" })
		await.Same(t, "feature", pins.FeatureRecord{Name: "repair_udp_source", Effect: needs}, b.status().Features[i])
		await.Same(t, "an error, if it is "+string(repair), repair == config.RepairTrue, slices.Contains(b.status().Errors, "repair_udp_source "+needs))
	}
}
