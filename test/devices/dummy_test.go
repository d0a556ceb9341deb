// SPDX-License-Identifier: Apache-2.0

package devices

import (
	"net/netip"
	"os"
	"testing"

	"replypath/test/await"
	"replypath/test/product"
	"replypath/test/topology"
	"replypath/test/traffic"
)

// virtual are the addresses on the dummy, which the router knows to be behind replication.
func virtual(f topology.Family) netip.Prefix {
	if f == topology.IPv4 {
		return netip.MustParsePrefix("10.96.0.10/32")
	}
	return netip.MustParsePrefix("2001:db8:96::10/128")
}

// TestDummyAddress asks addresses that only a dummy has. Their answers follow the
// routing table unless they are to be symmetric.
func TestDummyAddress(t *testing.T) {
	s := newSite(t, ethernet, ethernet)
	made[*topology.Interface](t, "dummy")(s.Server.AddDummy("dummy0", virtual(topology.IPv4), virtual(topology.IPv6)))
	await.Must(t, s.WaitReady(await.Within(t, await.AnswerTime)))
	for _, f := range traffic.Families {
		await.Must(t, s.Router.AddRoute(topology.Route{Destination: virtual(f), Via: s.Replication.Address(f)}))
		traffic.Serve(t, s.Server, virtual(f).Addr())
	}
	lost := func(t *testing.T, f topology.Family, kind traffic.Kind) {
		s.wantConversationLost(t, s.ask(t, kind, virtual(f).Addr()))
	}
	traffic.EachQuestion(t, "without replypath", lost)
	config := product.WriteConfig(t, "")
	d := product.On(t, s.Server).Start("--config", config)
	traffic.EachQuestion(t, "as the kernel routes", lost)
	await.Must(t, os.WriteFile(config, []byte("loopback_addresses: symmetric\n"), 0o600))
	d.Reload()
	traffic.EachQuestion(t, "symmetric", func(t *testing.T, f topology.Family, kind traffic.Kind) {
		s.wantAnswers(t, s.ask(t, kind, virtual(f).Addr()), s.Replication)
	})
}
