// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"context"
	"net/netip"
	"sync"
	"testing"

	"replypath/loader/config"
	"replypath/test/harness"
	"replypath/test/topology"
)

// TestReloadExcludesNobodyElse changes the exclusions again and again while somebody asks
// whom none of them is about: half a rule would be about everybody.
func TestReloadExcludesNobodyElse(t *testing.T) {
	s := newS1(t, topology.S1Options{})
	b := newBed(t, s.B.Host)
	// What is not listed is looked at anew with each packet.
	onlyTCP := func(c *config.Config) { c.Protocols = []uint8{config.ProtocolTCP} }
	r := b.start(func(o *Options) { onlyTCP(o.Config) })
	ctx, stop := context.WithCancel(t.Context())
	var asking sync.WaitGroup
	defer asking.Wait()
	defer stop()
	for _, f := range s.Families() {
		server := netip.AddrPortFrom(s.B.Eth1.Address(f), 9) // nobody is there
		conn, err := s.A.Dial(ctx, "udp", server.String())
		harness.Must(t, err)
		asking.Go(func() {
			defer conn.Close()
			for ctx.Err() == nil {
				_, _ = conn.Write([]byte("?")) // every other one says that nobody is there
			}
		})
	}
	const reloads = 400
	rules := [][]config.Exclusion{
		{{Peer: netip.MustParsePrefix("192.0.2.1/32")}, {Self: netip.MustParsePrefix("2001:db8:ffff::/64")}},
		{{Self: netip.MustParsePrefix("192.0.2.1/32")}},
		{{SelfPort: 22}, {Protocol: config.ProtocolSCTP}, {Peer: netip.MustParsePrefix("2001:db8:ffff::/64")}},
		nil,
	}
	const enough = 10_000 // packets
	for i := 0; i < reloads || r.counters().Ignored["protocol"] < enough; i++ {
		harness.Must(t, r.reload(func(c *config.Config) { onlyTCP(c); c.Exclude = rules[i%len(rules)] }))
	}
	counters := r.counters()
	if n := counters.Ignored["excluded"]; n != 0 {
		t.Errorf("%d of %d packets were taken for excluded ones", n, counters.Ignored["protocol"])
	}
	t.Logf("%d packets beside %d reloads", counters.Ignored["protocol"], reloads)
}
