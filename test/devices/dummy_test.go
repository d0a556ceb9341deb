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

// TestDiscovery has a server with what Kubernetes makes of it: a dummy with the services' addresses, an overlay of each
// family and a bridge of containers. None of them is managed, and answers are right.
func TestDiscovery(t *testing.T) {
	s := newSite(t, ethernet, ethernet)
	made[*topology.Interface](t, "dummy")(s.Server.AddDummy("kube-ipvs0", virtual(topology.IPv4), virtual(topology.IPv6)))
	for f, v := range map[topology.Family]topology.VXLAN{
		topology.IPv4: {Name: "flannel.1", ID: 1, Addresses: []netip.Prefix{netip.MustParsePrefix("10.244.0.0/32")}},
		topology.IPv6: {Name: "flannel-v6.1", ID: 1, Addresses: []netip.Prefix{netip.MustParsePrefix("2001:db8:244::/128")}},
	} {
		v.Local, v.Remote = s.Production.Address(f), s.Production.Peer().Address(f)
		await.Must1[*topology.Interface](t)(s.Server.AddVXLAN(v))
	}
	bridge := await.Must1[*topology.Bridge](t)(s.Server.AddBridge("cni0",
		netip.MustParsePrefix("10.244.0.1/24"), netip.MustParsePrefix("2001:db8:244::1/64")))
	pod := await.Must1[*topology.Host](t)(s.Host("pod"))
	_, err := bridge.Connect(topology.NIC{Host: pod, Name: "eth0", Addresses: []netip.Prefix{netip.MustParsePrefix("10.244.0.2/24")}})
	await.Must(t, err)

	traffic.EachQuestion(t, "without replypath, production", func(t *testing.T, f topology.Family, kind traffic.Kind) {
		await.Must(t, s.ask(t, kind, s.Production.Address(f)).Ask(await.Within(t, await.AnswerTime)))
	})
	p := product.On(t, s.Server)
	p.Start()
	wantManaged(t, p.Status(), "eth0", "eth1")
	traffic.EachQuestion(t, "with replypath", s.wantRight)
}

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
