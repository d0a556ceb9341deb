// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"context"
	"fmt"
	"testing"

	"replypath/test/await"
	"replypath/test/host"
	"replypath/test/product"
	"replypath/test/topology"
	"replypath/test/traffic"
	"replypath/test/wire"
)

// newS3b builds S2 with a director that translates as IPVS does, without the connection tracking of netfilter, and so
// sends ICMP redirects to the real server for what it sends back by the interface that it came in by: netfilter drops
// redirects of connections that it translates itself (nf_nat_proto.c, nf_nat_icmp_reply_translation). The source is
// put back after the director has forwarded, as IPVS does, because the redirect goes to the source.
func newS3b(t *testing.T) *topology.S2 {
	t.Helper()
	s := traffic.Build(t, topology.NewS2)
	host.Nft(t, s.Balancer.Host, `table inet director {
		chain prerouting { type filter hook prerouting priority raw;
			ip daddr 10.0.0.1 ip daddr set 192.168.1.200 notrack
			ip6 daddr 2001:db8::1 ip6 daddr set 2001:db8:1::200 notrack
		}
		chain forward { type filter hook forward priority filter;
			ip saddr 192.168.1.200 ip saddr set 10.0.0.1
			ip6 saddr 2001:db8:1::200 ip6 saddr set 2001:db8::1
		}
	}`)
	// A host takes an IPv6 redirect from the link-local address of its gateway only.
	host.Shell(t, s.Balancer.Host, `
		ip -6 address flush dev eth0 scope link
		ip -6 address add fe80::1/64 dev eth0 nodad`)
	traffic.ServeNICs(t, s.ServerEth0)
	return s
}

// redirect matches an ICMP redirect (RFC 792) or an IPv6 one (RFC 4861, 4.5).
func redirect(f *topology.Frame) bool {
	return f.Source.IsValid() && (f.Source.Is4() && f.Protocol == 1 && f.ICMPType == 5 ||
		f.Source.Is6() && f.Protocol == 58 && f.ICMPType == 137)
}

// TestS3b has the director teach the real server a short cut to a client in its own network. The routes that send
// answers by the director serve until then; with next_hop last-hop it changes nothing, with those routes and without.
// In its place the routes serve a server that does not listen to redirects.
func TestS3b(t *testing.T) {
	s, page := newS3b(t), host.ReadRecipe(t, "s3b-lvs-nat-redirects")
	toClient := exit{[]*topology.Interface{s.ServerEth0}, s.ServerEth0, s.ClientEth0.MAC}
	toDirector := exit{toClient.nics, s.ServerEth0, s.BalancerEth0.MAC}
	virtual := asking{s.ClientEth0, s.Virtual, s.ServerEth0.Address}
	page.Run(s.Server, "The routes")
	seen := page.Watch(s.Server, "What goes wrong")
	for _, f := range s.Families() {
		teach(t, s, f)
	}
	seen()
	virtual.lost(t, "without replypath", toClient)
	p := product.On(t, s.Server)
	p.Start("--config", page.Config("With replypath"))
	virtual.answered(t, "with the short cut", toDirector)
	asking{client: s.ClientEth0, of: s.ServerEth0.Address}.answered(t, "directly", toClient)
	page.Run(s.Server, "With replypath")
	virtual.answered(t, "without the routes", toDirector)

	p.Expect(0, "detach", "--stop")
	virtual.lost(t, "after detach", toClient)
	for _, heading := range []string{"The routes", "With routes and without redirects"} {
		page.Run(s.Server, heading)
	}
	taught := wire.Capture(t, s.ServerEth0)
	for _, round := range []string{"deaf", "deaf again"} {
		virtual.answered(t, round, toDirector)
	}
	if taught.Count(redirect) == 0 {
		t.Error("no redirect reached the server")
	}
}

// teach has the client ask by pings until the director's redirects have taught
// the real server to answer past it. The first answers, by the director, arrive.
func teach(t *testing.T, s *topology.S2, f topology.Family) {
	t.Helper()
	taught := wire.Capture(t, s.ServerEth0)
	ctx := await.Within(t, await.AnswerTime)
	p := await.Must1[*topology.Pinger](t)(s.Client.NewPinger(ctx, topology.Echo{To: s.Virtual(f)}))
	defer p.Close()
	_, err := p.Ping(ctx)
	await.Must(t, err)
	_, err = taught.Wait(ctx, redirect)
	await.Must(t, err)
	await.Eventually(t, "the server answers past the director", func() error {
		ctx, cancel := context.WithTimeout(ctx, await.SilenceTime)
		defer cancel()
		// The last of them is not answered, and that is the point.
		_, _ = p.Ping(ctx)
		if taught.Count(topology.All(topology.EchoReply, topology.ToMAC(s.ClientEth0.MAC))) == 0 {
			return fmt.Errorf("%d redirects reached the server, to no avail", taught.Count(redirect))
		}
		return nil
	})
}
