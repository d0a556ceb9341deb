// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"replypath/bpf"
	"replypath/loader/attach"
	"replypath/loader/config"
	"replypath/loader/datapath"
	"replypath/loader/flows"
	"replypath/test/await"
	"replypath/test/short"
)

func (b *server) wantFlows(when string, want int) []flows.Flow {
	b.Helper()
	list := b.flows()
	if len(list) != want {
		b.Errorf("%s: flows %v, want %d", when, list, want)
	}
	return list
}

// TestRestartForgetsWhatIsNotServed: as a reload does, whatever the size of the tables.
func TestRestartForgetsWhatIsNotServed(t *testing.T) {
	b := newAnsweringServer(t)
	r := b.start()
	b.ping()
	before := b.flows()
	r.stop()
	serving := func(protocol uint8) func(*Options) {
		return func(o *Options) { o.Config.Protocols = []uint8{protocol} }
	}
	b.start(larger, serving(config.ProtocolICMPv6)).stop()
	if list := b.wantFlows("in larger tables", 1); list[0].Family != "ipv6" {
		t.Errorf("flows %v", list)
	}
	b.start(larger, serving(config.ProtocolTCP))
	b.wantFlows("in tables of the same size", 0)
	t.Logf("%d flows before a start that serves ICMPv6 alone, 1 after it, 0 after one that serves TCP alone", len(before))
}

// TestReloadKeepsFlowsThatBeginMeanwhile: flows go to tables of another size. What comes in after they were copied, and before the programs are
// replaced, is in the new tables afterwards.
func TestReloadKeepsFlowsThatBeginMeanwhile(t *testing.T) {
	byEach(t, func(t *testing.T, mechanism attach.Mechanism) {
		b := newAnsweringServer(t)
		r := b.start(by(mechanism))
		capacity := b.status().Flows.Capacity
		r.attachBy(doFirst(b.ping))
		await.Must(t, r.reload(largerConfig))
		b.wantFlows("that began meanwhile", 2)
		await.Must(t, r.reload())
		b.wantFlows("in tables as before", 2)
		if got := b.status().Flows.Capacity; got != capacity {
			t.Errorf("capacity %d, before %d", got, capacity)
		}
		r.stop()
		b.ping()
	})
}

// TestFailedReloadKeepsTheConfiguration, and the status shows errors of it and of other parts as long as they stand.
func TestFailedReloadKeepsTheConfiguration(t *testing.T) {
	b := newServer(t)
	r := b.start()
	before, ids := b.settings(), b.mapIDs()
	tooMany := slices.Repeat([]config.Exclusion{{SelfPort: 1}}, 65)
	if err := r.reload(func(c *config.Config) { c.Exclude, c.Protocols = tooMany, nil }); err == nil {
		t.Error("65 exclusions were accepted")
	}
	// Nothing can be removed where a file system is mounted.
	obstacle := filepath.Join(b.dir, "maps-new-gone", "obstacle")
	await.Must(t, os.MkdirAll(obstacle, 0o700))
	await.Must(t, unix.Mount("tmpfs", obstacle, "tmpfs", 0, ""))
	defer func() { await.Must(t, unix.Unmount(obstacle, 0)) }()
	if err := r.reload(largerConfig, func(c *config.Config) { c.Protocols = nil }); err == nil {
		t.Error("a size was accepted that could not be put in place")
	}
	wantSame(b, "settings", before, b.settings())
	wantSame(b, "maps", ids, b.mapIDs())
	r.ReportConfigError(errors.New("bad\nfile"))
	if config := b.status().Config; config.Error == nil || *config.Error != "bad; file" {
		t.Errorf("config %+v", config)
	}
	r.SetError("metrics", errors.New("address already in use"))
	if errs := b.status().Errors; !slices.Equal(errs, []string{"metrics: address already in use"}) {
		t.Errorf("errors %v", errs)
	}
	r.SetError("metrics", nil)
	b.wantNoErrors()
}

// wantGrace wants a grace to have been opened, and ends it: what the host sends until its end proves nothing, so that its
// answers become flows.
func (b *server) wantGrace(when string, want bool) {
	b.Helper()
	if ends := value[uint32](b, b.maps().Grace); ends != 0 != want {
		b.Errorf("%s: a grace until tick %d", when, ends)
	}
	await.Must(b.T, b.maps().Grace.Put(uint32(0), uint32(0)))
}

// TestGraceOnlyWhereFlowsAreMissing: only what forgets a flow, or records more than before, may open it.
func TestGraceOnlyWhereFlowsAreMissing(t *testing.T) {
	b := newAnsweringServer(t)
	r := b.start()
	b.ping()
	b.wantGrace("after the start", true)
	await.Must(t, r.reload())
	b.wantGrace("after a reload that forgets nothing", false)
	table := read(b, func() (*flows.Table, error) { return flows.Open(b.dir) })
	defer table.Close()
	for name, want := range map[string]int{"eth0": 0, "eth1": 2} {
		flushed := read(b, func() (int, error) { return table.Flush(flows.Filter{Interface: name}) })
		if flushed != want {
			t.Errorf("flushed %d of %s", flushed, name)
		}
		b.wantGrace("after a flush of "+name, want > 0)
	}
	await.Must(t, r.reload(func(c *config.Config) { c.IgnoreInterfaces = []string{"eth1"} }))
	b.wantGrace("without eth1", false)
	await.Must(t, r.reload())
	b.wantGrace("with eth1", true)
	await.Must(t, r.reload(func(c *config.Config) { c.Protocols = []uint8{config.ProtocolTCP} }))
	b.wantGrace("with TCP alone", false)
	await.Must(t, r.reload())
	b.wantGrace("with all protocols", true)
}

// TestGraceWhenTablesAreReplaced: questions that the tables do not hold which the programs look at now are answered after
// they were replaced, too.
func TestGraceWhenTablesAreReplaced(t *testing.T) {
	b := newServer(t)
	r := b.start()
	b.wantGrace("after the start", true)
	await.Must(t, r.reload(largerConfig))
	if left := r.graceLeft(); left > datapath.GracePeriod {
		t.Errorf("the grace lasts for %v after the reload", left)
	}
	b.wantGrace("after a reload with tables of another size", true)
	r.stop()
	b.start(larger).stop()
	b.wantGrace("after a start that takes over the tables", false)
	b.start()
	b.wantGrace("after a start with tables of another size", true)
}

// graceLeft returns how long the grace goes on.
func (r *running) graceLeft() time.Duration {
	clock, err := r.datapath.Clock()
	await.Must(r.b.T, err)
	hertz, err := datapath.Hertz()
	await.Must(r.b.T, err)
	ticks := int32(value[uint32](r.b, r.b.maps().Grace) - clock.Now())
	return time.Duration(ticks) * time.Duration(bpf.DatapathTickJIFFIES_PER_TICK) * time.Second / time.Duration(hertz)
}

// TestReloadExcludesNobodyElse: while exclusions are replaced, none is in force that is half of one set and half of another.
func TestReloadExcludesNobodyElse(t *testing.T) {
	b := newAnsweringServer(t)
	// What is not listed is looked at anew with each packet.
	onlyTCP := func(c *config.Config) { c.Protocols = []uint8{config.ProtocolTCP} }
	r := b.start(func(o *Options) { onlyTCP(o.Config) })
	ctx, stop := context.WithCancel(t.Context())
	var asking sync.WaitGroup
	defer asking.Wait()
	defer stop()
	for _, f := range b.net.Families() {
		server := netip.AddrPortFrom(b.eth1.Address(f), 9) // nobody is there
		conn, err := b.net.A.Dial(ctx, "udp", server.String())
		await.Must(t, err)
		asking.Go(func() {
			defer conn.Close()
			for ctx.Err() == nil {
				_, _ = conn.Write([]byte("?")) // every other one says that nobody is there
			}
		})
	}
	rules := [][]config.Exclusion{
		{{Peer: netip.MustParsePrefix("192.0.2.1/32")}, {Self: netip.MustParsePrefix("2001:db8:ffff::/64")}},
		{{Self: netip.MustParsePrefix("192.0.2.1/32")}},
		{{SelfPort: 22}, {Protocol: config.ProtocolSCTP}, {Peer: netip.MustParsePrefix("2001:db8:ffff::/64")}},
		nil,
	}
	reloads, enough := 400, uint64(10_000) // packets
	if short.Run(t) {
		reloads, enough = reloads/10, enough/10
	}
	for i := 0; i < reloads || r.counters().Ignored["protocol"] < enough; i++ {
		await.Must(t, r.reload(func(c *config.Config) { onlyTCP(c); c.Exclude = rules[i%len(rules)] }))
	}
	counters := r.counters()
	if n := counters.Ignored["excluded"]; n != 0 {
		t.Errorf("%d of %d packets were taken for excluded ones", n, counters.Ignored["protocol"])
	}
	t.Logf("%d packets beside %d reloads", counters.Ignored["protocol"], reloads)
}
