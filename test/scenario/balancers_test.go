// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"context"
	"fmt"
	"net/netip"
	"testing"

	"replypath/test/await"
	"replypath/test/host"
	"replypath/test/product"
	"replypath/test/topology"
	"replypath/test/traffic"
	"replypath/test/wire"
)

// newS3a builds S3a with a director that does what IPVS does with a frame for the virtual address: it gives it the
// real server's MAC and sends it on unchanged. The tests' kernel has no IPVS. With apart, the router drops sources of
// the real server's network that come from another.
func newS3a(t *testing.T, apart bool) *topology.S3a {
	t.Helper()
	s := traffic.Build(t, func(ctx context.Context) (*topology.S3a, error) { return topology.NewS3a(ctx, apart) })
	to := fmt.Sprintf("ether saddr set %s ether daddr set %s fwd to inside", s.DirectorInside.MAC, s.Eth0.MAC)
	host.Nft(t, s.Director.Host, `table netdev director {
		chain ingress { type filter hook ingress device outside priority filter;
			ip daddr 10.0.0.1 `+to+`
			ip6 daddr 2001:db8::1 `+to+`
		}
	}`)
	if apart {
		host.Nft(t, s.Router.Host, `table inet sources {
			chain prerouting { type filter hook prerouting priority raw;
				iifname inside ip saddr 192.168.1.0/24 drop
				iifname inside ip6 saddr 2001:db8:1::/64 drop
			}
		}`)
	}
	for _, f := range traffic.Families {
		traffic.Serve(t, s.Server, s.Virtual(f))
		traffic.Serve(t, s.Server, s.Eth0.Address(f))
	}
	return s
}

// wantSymmetric wants what loopback_addresses: symmetric does here: answers from the virtual address go to the
// director, which takes IPv4 ones for its own and drops them. IPv6 knows no such check, and this director forwards.
func wantSymmetric(t *testing.T, virtual asking, toDirector exit) {
	virtual.each(t, traffic.Families[:1], "virtual, symmetric", toDirector.wantLost)
	virtual.each(t, traffic.Families[1:], "virtual, symmetric", toDirector.wantAnswers)
}

// TestS3aOneNIC has the director and the router on the real server's one NIC. Answers from the virtual address go to
// the router, not to the director that the question came from: without replypath, with an empty configuration, and
// with next_hop last-hop. Only who asks for it gets them symmetric.
func TestS3aOneNIC(t *testing.T) {
	s := newS3a(t, false)
	nics := []*topology.Interface{s.Eth0}
	toRouter, toDirector := exit{nics, s.Eth0, s.RouterInside.MAC}, exit{nics, s.Eth0, s.DirectorInside.MAC}
	virtual, real := asking{client: s.ClientEth0, of: s.Virtual}, asking{client: s.ClientEth0, of: s.Eth0.Address}
	virtual.answered(t, "without replypath", toRouter)
	_, d := product.StartOn(t, s.Server, "--config", product.WriteConfig(t, ""))
	virtual.answered(t, "virtual", toRouter)
	real.answered(t, "real", toRouter)
	const lastHop = "interfaces: [{name: eth0, next_hop: last-hop}]\n"
	d.Reconfigure(lastHop)
	virtual.answered(t, "virtual, last-hop", toRouter)
	d.Reconfigure(lastHop + "loopback_addresses: symmetric\n")
	wantSymmetric(t, virtual, toDirector)
}

// TestS3aTwoNICs has the router on another NIC than the director. Answers from the real address leave by the wrong
// one without replypath, and are dropped; answers from the virtual address are right, and have to stay so, as with
// the rules of the recipe.
func TestS3aTwoNICs(t *testing.T) {
	s := newS3a(t, true)
	nics := []*topology.Interface{s.Eth0, s.Eth1}
	toRouter, toDirector := exit{nics, s.Eth1, s.RouterInside.MAC}, exit{nics, s.Eth0, s.DirectorInside.MAC}
	virtual, real := asking{client: s.ClientEth0, of: s.Virtual}, asking{client: s.ClientEth0, of: s.Eth0.Address}
	virtual.answered(t, "virtual without replypath", toRouter)
	real.lost(t, "real without replypath", toRouter)
	p, d := product.StartOn(t, s.Server, "--config", product.WriteConfig(t, ""))
	virtual.answered(t, "virtual", toRouter)
	real.answered(t, "real", toDirector)
	d.Reconfigure("loopback_addresses: symmetric\n")
	wantSymmetric(t, virtual, toDirector)
	p.Expect(0, "detach", "--stop")
	real.lost(t, "real after detach", toRouter)
	host.ReadRecipe(t, "s3a-lvs-direct-routing").Run(s.Server, "With ip rule")
	virtual.answered(t, "virtual by rules", toRouter)
	real.answered(t, "real by rules", toDirector)
}

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
	p, _ := product.StartOn(t, s.Server, "--config", page.Config("With replypath"))
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

// s3c is the network with directors that translate, and the ways to them.
type s3c struct {
	*topology.S3c
	to [2]exit
}

func newS3c(t *testing.T) s3c {
	t.Helper()
	s := s3c{S3c: traffic.Build(t, topology.NewS3c)}
	for i, director := range s.Directors {
		asked := s.by(i)
		for _, f := range s.Families() {
			traffic.Serve(t, s.Server, asked.seenAs(f))
		}
		destinationNAT(t, director.Host, asked.of, asked.seenAs)
		s.to[i] = exit{[]*topology.Interface{s.ServerEth0}, s.ServerEth0, s.DirectorEth0[i].MAC}
	}
	return s
}

// by has the client ask by a director.
func (s s3c) by(director int) asking {
	virtual := func(f topology.Family) netip.Addr { return s.Virtual(director, f) }
	return asking{s.ClientEth0, virtual, func(f topology.Family) netip.Addr { return s.Real(director, f) }}
}

// answered wants each director's clients to be answered by it.
func (s s3c) answered(t *testing.T, name string) {
	for i := range s.Directors {
		s.by(i).answered(t, fmt.Sprintf("director %d%s", i+1, name), s.to[i])
	}
}

// awaitDirectors returns when the programs know the MACs of both: until then the answer to a director's question goes as
// routed, and a neighbour's answer may come a moment after the start.
func (s s3c) awaitDirectors(t *testing.T, p *product.Product) {
	for _, director := range s.DirectorEth0 {
		for _, f := range s.Families() {
			waitGatewayMAC(t, p, s.ServerEth0.Name, director.Address(f), director.MAC)
		}
	}
}

// TestS3c has a client ask by both directors. Without replypath all answers go to director 1, which has the default
// route, and those to the clients of director 2 arrive as a stranger's; with it each goes back to the director that
// it came from. Director 2 is in no route of the server, so the configuration names it, or stands in one that is
// never used. The recipe's rules do the same.
func TestS3c(t *testing.T) {
	s, page := newS3c(t), host.ReadRecipe(t, "s3c-one-server-two-directors")
	s.by(0).answered(t, "director 1 without replypath", s.to[0])
	seen := page.Watch(s.Server, "What goes wrong")
	s.by(1).lost(t, "director 2 without replypath", s.to[0])
	seen()
	p, _ := product.StartOn(t, s.Server, "--config", page.Config("With replypath"))
	s.awaitDirectors(t, p)
	s.answered(t, "")
	p.Expect(0, "detach", "--stop")
	s.by(1).lost(t, "director 2 after detach", s.to[0])
	page.Run(s.Server, "With replypath")
	s.by(1).lost(t, "director 2 with a second route", s.to[0])
	p.Start()
	s.awaitDirectors(t, p)
	s.answered(t, " by a second route")
	p.Expect(0, "detach", "--stop")
	page.Run(s.Server, "With ip rule")
	s.answered(t, " by rules")
}

// The tests' kernel has no IPVS. What a balancer does to packets, which is all that the real server sees of it, is
// done by nftables instead: translation with connection tracking here, without it in newS3b.

// destinationNAT translates a balancer's virtual addresses into the server's, and back what comes through it.
func destinationNAT(t *testing.T, balancer *topology.Host, virtual, real func(topology.Family) netip.Addr) {
	t.Helper()
	var rules string
	for f, ip := range map[topology.Family]string{topology.IPv4: "ip", topology.IPv6: "ip6"} {
		rules += fmt.Sprintf("%s daddr %s dnat %s to %s\n", ip, virtual(f), ip, real(f))
	}
	host.Nft(t, balancer, `table inet balancer {
		chain prerouting { type nat hook prerouting priority dstnat;
`+rules+`}
	}`)
}

// TestS2 has clients ask the virtual address and the server itself. Without replypath a client in the server's own
// network is answered directly, by a stranger; with it, by next_hop last-hop, everybody is answered by the way of the
// question, as with the marks that the recipe shows beside it.
func TestS2(t *testing.T) {
	s, page := traffic.Build(t, topology.NewS2), host.ReadRecipe(t, "s2-load-balancer-nat")
	for _, f := range s.Families() {
		traffic.Serve(t, s.Server, s.ServerEth0.Address(f))
		traffic.Serve(t, s.Client, s.ClientEth0.Address(f))
	}
	destinationNAT(t, s.Balancer.Host, s.Virtual, s.ServerEth0.Address)
	toClient := exit{[]*topology.Interface{s.ServerEth0}, s.ServerEth0, s.ClientEth0.MAC}
	toBalancer := exit{toClient.nics, s.ServerEth0, s.BalancerEth0.MAC}
	through := asking{s.ClientEth0, s.Virtual, s.ServerEth0.Address}
	outside := asking{s.OutsideEth0, s.Virtual, s.ServerEth0.Address}
	directly := asking{client: s.ClientEth0, of: s.ServerEth0.Address}
	seen := page.Watch(s.Server, "What goes wrong")
	through.lost(t, "without replypath", toClient)
	seen()

	p, _ := product.StartOn(t, s.Server, "--config", page.Config("With replypath"))
	through.answered(t, "through the balancer", toBalancer)
	outside.answered(t, "from outside", toBalancer)
	directly.answered(t, "directly", toClient)
	traffic.EachQuestion(t, "the server asks", func(t *testing.T, f topology.Family, kind traffic.Kind) {
		toClient.wantQuestions(t, traffic.NewConversation(t, kind, s.ServerEth0, s.ClientEth0.Address(f)))
	})

	p.Expect(0, "detach", "--stop")
	through.lost(t, "after detach", toClient)
	page.Run(s.Server, "With connmark")
	through.answered(t, "through the balancer, by marks", toBalancer)
	directly.answered(t, "directly, by marks", toClient)
}
