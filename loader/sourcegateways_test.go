// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"replypath/bpf"
	"replypath/loader/config"
	"replypath/test/harness"
	"replypath/test/topology"
)

// sourceGateways returns the gateways of own addresses, as the programs know them.
func (b *bed) sourceGateways() map[netip.Addr]netip.Addr {
	b.Helper()
	names := make(map[uint32]netip.Addr)
	for _, r := range b.journal().Gateways {
		names[uint32(r.ID)] = netip.MustParseAddr(r.Address)
	}
	found := make(map[netip.Addr]netip.Addr)
	var (
		own bpf.DatapathAddress
		id  uint32
	)
	entries := b.maps().SourceGateways.Iterate()
	for entries.Next(&own, &id) {
		found[netip.AddrFrom16(own.Bytes).Unmap()] = names[id]
	}
	harness.Must(b.T, entries.Err())
	return found
}

// TestSourceGateways: with several gateways of everything, each address gets its own as routes and addresses come and go, and
// none where there is nothing to choose.
func TestSourceGateways(t *testing.T) {
	s := newS1(t, topology.S1Options{})
	b := newBed(t, s.B.Host)
	strong := func(o *Options) { o.Config.HostModel = config.HostModelStrong }
	r := b.start(strong)
	ways := func() uint32 {
		var settings bpf.DatapathSettings
		harness.Must(t, b.maps().Configuration.Lookup(uint32(0), &settings))
		return settings.Ways
	}
	await := func(what string, pairs ...string) {
		t.Helper()
		want := make(map[netip.Addr]netip.Addr)
		for i := 0; i < len(pairs); i += 2 {
			want[netip.MustParseAddr(pairs[i])] = netip.MustParseAddr(pairs[i+1])
		}
		var got map[netip.Addr]netip.Addr
		harness.Eventually(t, what, func() error {
			if got = b.sourceGateways(); cmp.Equal(got, want, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })) {
				return nil
			}
			return fmt.Errorf("own addresses have the gateways %v", got)
		})
	}
	b.ip("addr add 10.5.0.100/24 dev eth1\naddr add 2001:db8:5::100/64 dev eth1 nodad\nroute add default via 10.4.0.1 table 7\n" +
		"route add default via 2001:db8:4::1 table 7\n")
	harness.Eventually(t, "one gateway of each family", func() error {
		if gateways := b.status().of("eth1").Gateways; len(gateways) != 2 {
			return fmt.Errorf("eth1 has %d gateways", len(gateways))
		}
		return nil
	})
	await("nothing that the source decides")
	before := ways()
	b.ip("route add default via 10.5.0.1 table 8\nroute add default from 2001:db8:5::/64 via fe80::5 dev eth1 table 8\n")
	both := []string{"10.4.0.100", "10.4.0.1", "10.5.0.100", "10.5.0.1", "2001:db8:4::100", "2001:db8:4::1", "2001:db8:5::100", "fe80::5"}
	await("two", both...)
	harness.Eventually(t, "what was decided before is void", func() error {
		if now := ways(); now == before {
			return fmt.Errorf("ways is %d as before", now)
		}
		return nil
	})
	r.stop()
	b.start(strong)
	await("a new process", both...)
	b.ip("route del default table 7\naddr del 10.5.0.100/24 dev eth1\nroute del default from 2001:db8:5::/64 table 8\n")
	await("one again")
}
