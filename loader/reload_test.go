// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"context"
	"net/netip"
	"sync"
	"testing"

	"replypath/loader/attach"
	"replypath/loader/config"
	"replypath/loader/counters"
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
		await.Same(t, "capacity", capacity, b.status().Flows.Capacity)
		r.stop()
		b.ping()
	})
}

// TestRefusedReloadKeepsTables: where what follows a change of the size fails, the tables of before are in force again, with
// their flows; and the configuration that was refused is put in force by the next reload.
func TestRefusedReloadKeepsTables(t *testing.T) {
	b := newAnsweringServer(t)
	r := b.start()
	b.ping()
	before, capacity := b.mapIDs(), b.status().Flows.Capacity
	r.locked(func() error {
		journal, closed := r.journal, r.closedJournal()
		attached := 0
		r.attacher = &testAttacher{r.attacher, func(own attach.Means, i attach.Interface, programs attach.Programs) (attach.Result, error) {
			if i.Name != "eth1" {
				return own.Attach(i, programs)
			}
			if attached++; attached == 1 { // what attaches the programs of larger tables is followed by what fails
				r.journal = closed
			} else {
				r.journal = journal
			}
			return own.Attach(i, programs)
		}}
		return nil
	})
	if err := r.reload(largerConfig); err == nil {
		t.Fatal("a reload without a journal is not refused")
	}
	await.Same(b, "maps", before, b.mapIDs())
	await.Same(b, "capacity", capacity, b.status().Flows.Capacity)
	b.wantFlows("of before", 2)
	await.Must(t, r.reload(largerConfig))
	await.Same(b, "capacity after the next reload", 2*capacity, b.status().Flows.Capacity)
	b.wantFlows("in larger tables", 2)
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
	reloads, enough := 400, 10_000.0 // packets
	if short.Run(t) {
		reloads, enough = reloads/10, enough/10
	}
	for i := 0; i < reloads || sum(r.counters(), counters.IgnoredPackets, "protocol") < enough; i++ {
		await.Must(t, r.reload(func(c *config.Config) { onlyTCP(c); c.Exclude = rules[i%len(rules)] }))
	}
	counted := r.counters()
	await.Same(t, "packets that were taken for excluded ones", 0, sum(counted, counters.IgnoredPackets, "excluded"))
	t.Logf("%.0f packets beside %d reloads", sum(counted, counters.IgnoredPackets, "protocol"), reloads)
}
