// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"replypath/bpf"
	"replypath/loader/attach"
	"replypath/loader/attachment"
	"replypath/loader/config"
	"replypath/loader/datapath"
	"replypath/loader/flows"
	"replypath/test/harness"
	"replypath/test/topology"
)

func TestReload(t *testing.T) {
	s := newS1(t, topology.S1Options{})
	b := newBed(t, s.B.Host)
	r := b.start(nil)
	pingB(t, s)
	if n := len(b.flows()); n != 2 {
		t.Fatalf("%d flows", n)
	}

	harness.Must(t, r.reload(func(c *config.Config) {
		c.Follow, c.Mode = config.FollowPinned, config.ModeObserve
		c.LoopbackAddresses, c.Protocols = config.LoopbackSymmetric, []uint8{1, 58, 255}
	}))
	settings := b.settings()
	if settings.Follow != uint8(bpf.DatapathFollowFOLLOW_PINNED) || settings.Loopback != 1 || settings.ScopeAll != 0 {
		t.Errorf("settings %+v", settings)
	}
	if settings.Protocols != [32]uint8{0: 1 << 1, 7: 1 << 2, 31: 1 << 7} {
		t.Errorf("protocols %v", settings.Protocols)
	}
	if n := len(b.flows()); n != 2 {
		t.Errorf("%d flows after a change that concerns none", n)
	}
	if mode := b.status().Mode; mode != "observe" {
		t.Errorf("mode %s", mode)
	}

	harness.Must(t, r.reload(func(c *config.Config) { c.Protocols = []uint8{config.ProtocolICMPv6} }))
	if list := b.flows(); len(list) != 1 || list[0].Family != "ipv6" {
		t.Errorf("flows %v", list)
	}
	peer := s.A.Eth1.Address(topology.IPv6)
	harness.Must(t, r.reload(func(c *config.Config) {
		c.Exclude = []config.Exclusion{{Peer: netip.PrefixFrom(peer, 64).Masked()}}
	}))
	if list := b.flows(); len(list) != 0 {
		t.Errorf("flows of an excluded peer %v", list)
	}
	// What is excluded is answered by the kernel's route, and lost on this network.
	ctx, cancel := context.WithCancel(within(t))
	wrong, err := s.B.Eth0.Peer().Capture(topology.CaptureOptions{})
	harness.Must(t, err)
	go func() {
		_, _ = wrong.Wait(ctx, topology.All(topology.EchoReply, topology.To(peer)))
		cancel()
	}()
	if _, err := s.A.Ping(ctx, topology.Echo{To: s.B.Eth1.Address(topology.IPv6)}); !errors.Is(err, context.Canceled) {
		t.Errorf("ping of an excluded peer: %v", err)
	}
	if _, err := s.A.Ping(within(t), topology.Echo{To: s.B.Eth1.Address(topology.IPv4)}); err != nil {
		t.Errorf("ping of another peer: %v", err)
	}
}

// rules are the settings but for their generation, which only rises.
func (b *bed) rules() bpf.DatapathSettings {
	b.Helper()
	rules := b.settings()
	rules.Generation, rules.Ways = 0, 0
	return rules
}

func (b *bed) settings() bpf.DatapathSettings {
	b.Helper()
	var settings bpf.DatapathSettings
	harness.Must(b.T, b.maps().Configuration.Lookup(uint32(0), &settings))
	return settings
}

func TestReloadOfInterfaces(t *testing.T) {
	s := newS1(t, topology.S1Options{})
	b := newBed(t, s.B.Host)
	r := b.start(nil)
	pingB(t, s)
	harness.Must(t, r.reload(func(c *config.Config) { c.Interfaces = []config.Interface{{Name: "eth0"}} }))
	status := b.status()
	if status.of("eth1") != nil || !status.of("eth0").Attached {
		t.Errorf("interfaces %+v", status.Interfaces)
	}
	if list := b.flows(); len(list) != 0 {
		t.Errorf("flows of an interface that is not managed any more %v", list)
	}
	programs := 0
	b.inside(func() (err error) {
		programs, err = attachedPrograms(s.B.Eth1.Index)
		return err
	})
	if programs != 0 {
		t.Error("a program is left on eth1")
	}
	harness.Must(t, r.reload(func(*config.Config) {}))
	pingB(t, s)
}

// TestRestartForgetsWhatIsNotServed: as a reload does, whatever the size of the tables.
func TestRestartForgetsWhatIsNotServed(t *testing.T) {
	for _, entries := range []uint32{1 << 12, 1 << 14} {
		t.Run(fmt.Sprint(entries), func(t *testing.T) {
			s := newS1(t, topology.S1Options{})
			b := newBed(t, s.B.Host)
			r := b.start(nil)
			pingB(t, s)
			before := b.flows()
			r.stop()
			b.opened = nil
			b.start(func(o *Options) {
				o.Config.MaxEntries, o.Config.Protocols = entries, []uint8{config.ProtocolICMPv6}
			})
			list := b.flows()
			if len(list) != 1 || list[0].Family != "ipv6" {
				t.Errorf("flows %v", list)
			}
			t.Logf("%d flows before a start that serves ICMPv6 alone, %d after it", len(before), len(list))
		})
	}
}

func TestReloadKeepsFlowsInTablesOfAnotherSize(t *testing.T) {
	for mechanism, options := range mechanisms {
		t.Run(string(mechanism), func(t *testing.T) {
			s := newS1(t, topology.S1Options{})
			b := newBed(t, s.B.Host)
			r := b.start(options)
			pingB(t, s)
			capacity := b.status().Flows.Capacity
			for _, entries := range []uint32{1 << 16, 1 << 10, 1 << 12} {
				harness.Must(t, r.reload(func(c *config.Config) { c.MaxEntries = entries }))
				if n := len(b.flows()); n < 2 {
					t.Errorf("%d flows", n)
				}
				pingB(t, s)
				b.opened = nil // the maps are others now
			}
			if got := b.status().Flows.Capacity; got != capacity {
				t.Errorf("capacity %d, before %d", got, capacity)
			}
			r.stop()
			pingB(t, s)
		})
	}
}

// obstruct keeps another datapath from being pinned: nothing can be removed where
// a file system is mounted.
func (b *bed) obstruct() {
	b.Helper()
	obstacle := filepath.Join(b.dir, "maps-new-gone", "obstacle")
	harness.Must(b.T, os.MkdirAll(obstacle, 0o700))
	harness.Must(b.T, unix.Mount("tmpfs", obstacle, "tmpfs", 0, ""))
	b.Cleanup(func() { harness.Must(b.T, unix.Unmount(obstacle, 0)) })
}

func TestFailedReloadKeepsTheConfiguration(t *testing.T) {
	s := newS1(t, topology.S1Options{})
	b := newBed(t, s.B.Host)
	r := b.start(nil)
	pingB(t, s)
	before, ids := b.settings(), b.mapIDs()

	tooMany := slices.Repeat([]config.Exclusion{{SelfPort: 1}}, 65)
	if err := r.reload(func(c *config.Config) { c.Exclude, c.Protocols = tooMany, nil }); err == nil {
		t.Error("65 exclusions were accepted")
	}
	b.obstruct()
	if err := r.reload(func(c *config.Config) { c.MaxEntries, c.Protocols = 1<<14, nil }); err == nil {
		t.Error("a size was accepted that could not be put in place")
	}
	b.opened = nil
	if after := b.settings(); after != before {
		t.Errorf("settings %+v, before %+v", after, before)
	}
	for name, id := range b.mapIDs() {
		if ids[name] != id {
			t.Errorf("map %s is pinned as %d, before %d", name, id, ids[name])
		}
	}
	r.ReportConfigError(errors.New("bad\nfile"))
	if config := b.status().Config; config.Error == nil || *config.Error != "bad; file" {
		t.Errorf("config %+v", config)
	}
	pingB(t, s)
}

func TestSetErrorShowsInTheStatus(t *testing.T) {
	s := newS1(t, topology.S1Options{})
	b := newBed(t, s.B.Host)
	r := b.start(nil)
	r.SetError("metrics", errors.New("address already in use"))
	if errs := b.status().Errors; !slices.Equal(errs, []string{"metrics: address already in use"}) {
		t.Errorf("errors %v", errs)
	}
	r.SetError("metrics", nil)
	if errs := b.status().Errors; len(errs) != 0 {
		t.Errorf("errors %v", errs)
	}
}

// graceEnds returns the tick until which nothing is noted that the host sends.
func (b *bed) graceEnds() uint32 {
	b.Helper()
	var ends uint32
	harness.Must(b.T, b.maps().Grace.Lookup(uint32(0), &ends))
	return ends
}

// endGrace ends it, so that the next one shows.
func (b *bed) endGrace() {
	b.Helper()
	harness.Must(b.T, b.maps().Grace.Put(uint32(0), uint32(0)))
}

// What the host sends in the grace is not noted, so its answers become flows: only
// what forgets a flow may open it.
func TestGraceOnlyWhereFlowsAreForgotten(t *testing.T) {
	s := newS1(t, topology.S1Options{})
	b := newBed(t, s.B.Host)
	r := b.start(nil)
	pingB(t, s)
	b.endGrace()
	harness.Must(t, r.reload(func(*config.Config) {}))
	if b.graceEnds() != 0 {
		t.Error("a reload that forgets nothing opened the grace")
	}
	table := read(b, func() (*flows.Table, error) { return flows.Open(b.dir) })
	defer table.Close()
	flush := func(name string) (flushed int, err error) {
		b.inside(func() error {
			flushed, err = table.Flush(flows.Filter{Interface: name})
			return nil
		})
		return flushed, err
	}
	if flushed, err := flush("eth0"); flushed != 0 || err != nil {
		t.Errorf("flushed %d, %v", flushed, err)
	}
	if b.graceEnds() != 0 {
		t.Error("a flush that finds nothing opened the grace")
	}
	if flushed, err := flush("eth1"); flushed != 2 || err != nil {
		t.Errorf("flushed %d, %v", flushed, err)
	}
	if b.graceEnds() == 0 {
		t.Error("no grace after flows were forgotten")
	}
}

// Questions that the tables do not hold which the programs look at now are answered
// after they were replaced, too.
func TestGraceWhenTablesAreReplaced(t *testing.T) {
	s := newS1(t, topology.S1Options{})
	b := newBed(t, s.B.Host)
	r := b.start(nil)
	b.endGrace()
	harness.Must(t, r.reload(func(c *config.Config) { c.MaxEntries *= 2 }))
	if b.graceEnds() == 0 {
		t.Error("no grace after a reload with tables of another size")
	}
	if left := r.graceLeft(t, b); left > datapath.GracePeriod {
		t.Errorf("the grace lasts for %v after the reload", left)
	}
	r.stop()
	b.endGrace()
	larger := func(o *Options) { o.Config.MaxEntries *= 2 }
	b.start(larger).stop()
	if b.graceEnds() != 0 {
		t.Error("a start that takes over the tables opened the grace")
	}
	b.start(nil)
	if b.graceEnds() == 0 {
		t.Error("no grace after a start with tables of another size")
	}
}

// graceLeft returns how long the grace goes on.
func (r *running) graceLeft(t *testing.T, b *bed) time.Duration {
	t.Helper()
	clock, err := r.datapath.Clock()
	harness.Must(t, err)
	hertz, err := datapath.Hertz()
	harness.Must(t, err)
	ticks := int32(b.graceEnds() - clock.Now())
	return time.Duration(ticks) * time.Duration(bpf.DatapathTickJIFFIES_PER_TICK) * time.Second / time.Duration(hertz)
}

// asked is asked a question before it first attaches anything.
type asked struct {
	attachment.Attacher
	ask sync.Once
	by  func()
}

func (a *asked) Attach(to attach.Interface, programs attach.Programs) (attach.Result, error) {
	a.ask.Do(a.by)
	return a.Attacher.Attach(to, programs)
}

// TestReloadAsksNoGateMeanwhile: while flows are recorded in the tables of two datapaths, no gate knows all of them, so
// that the fallback routes ask none.
func TestReloadAsksNoGateMeanwhile(t *testing.T) {
	for mechanism, options := range mechanisms {
		t.Run(string(mechanism), func(t *testing.T) {
			b := newBed(t, newS1(t, topology.S1Options{}).B.Host)
			r := b.start(options)
			asking := func() int {
				routes := harness.Shell(t, b.host, "ip -4 route show proto 114; ip -6 route show proto 114")
				return strings.Count(routes, "encap bpf")
			}
			before, meanwhile := asking(), -1
			r.attacher = &asked{Attacher: r.attacher, by: func() { meanwhile = asking() }}
			harness.Must(t, r.reload(func(c *config.Config) { c.MaxEntries *= 2 }))
			if after := asking(); before != 2 || meanwhile != 0 || after != 2 {
				t.Errorf("of 2 fallback routes %d ask a gate before, %d while tables are replaced, %d afterwards", before, meanwhile, after)
			}
		})
	}
}

// TestReloadKeepsFlowsThatBeginMeanwhile: what comes in after the flows were copied to tables of another size, and
// before the programs are replaced, is in the new tables afterwards.
func TestReloadKeepsFlowsThatBeginMeanwhile(t *testing.T) {
	for mechanism, options := range mechanisms {
		t.Run(string(mechanism), func(t *testing.T) {
			s := newS1(t, topology.S1Options{})
			b := newBed(t, s.B.Host)
			r := b.start(options)
			r.attacher = &asked{Attacher: r.attacher, by: func() { pingB(t, s) }}
			harness.Must(t, r.reload(func(c *config.Config) { c.MaxEntries *= 2 }))
			if list := b.flows(); len(list) != 2 {
				t.Errorf("flows %v", list)
			}
		})
	}
}

// TestReadersDoNotWait: while a reload loads and verifies programs, figures and the state of the hooks are there at once.
func TestReadersDoNotWait(t *testing.T) {
	s := newS1Alone(t, topology.S1Options{})
	b := newBed(t, s.B.Host)
	r := b.start(nil)
	ended := make(chan error, 1)
	began := time.Now()
	go func() { ended <- r.reload(func(c *config.Config) { c.MaxEntries *= 2 }) }()
	var reads int
	var slowest time.Duration
	for reloading := true; reloading; reads++ {
		select {
		case err := <-ended:
			harness.Must(t, err)
			reloading = false
		default:
		}
		asked := time.Now()
		b.inside(func() error {
			_, err := r.Snapshot()
			_, unattached := r.Unattached()
			return errors.Join(err, unattached)
		})
		slowest = max(slowest, time.Since(asked))
	}
	took := time.Since(began)
	t.Logf("a reload took %s, the slowest of %d reads meanwhile %s", took.Round(time.Millisecond), reads, slowest.Round(time.Microsecond))
	if slowest > took/2 || reads < 10 { // attaching keeps the kernel's own lock for some of it
		t.Error("a reader waited for it")
	}
}
