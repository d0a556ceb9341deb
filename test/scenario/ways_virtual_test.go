// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"replypath/test/await"
	"replypath/test/host"
	"replypath/test/short"
	"replypath/test/topology"
	"replypath/test/traffic"
	"replypath/test/wire"
)

// newVirtualRouter is a server whose eth1 has a virtual router: requests come from the MACs of two routers, which take
// nothing that is sent to these, and its gateway has another one, which is the first router's as well. With two NICs the
// default route is by eth0, whose router drops what is from eth1's network.
func newVirtualRouter(t *testing.T, twoNICs bool) *waysBed {
	t.Helper()
	w := newWays(t, twoNICs)
	w.gateway = sharedGateway
	// Else the first router answers for the address with its own MAC.
	await.Must(t, w.At[0].SetSysctl("net/ipv4/conf/all/arp_ignore", "1"))
	shared := await.Must1[*topology.Interface](t)(w.Inside[0].AddMacvlan("virtual",
		netip.PrefixFrom(sharedGateway[topology.IPv4], 32), netip.PrefixFrom(sharedGateway[topology.IPv6], 128)))
	await.Must(t, shared.WaitReady(await.Within(t, await.AnswerTime)))
	w.mac = shared.MAC
	for i := range 2 {
		host.Nft(t, w.At[i].Host, fmt.Sprintf(`table netdev refusal {
			chain ingress { type filter hook ingress device inside priority filter;
				ether daddr %[1]s meta l4proto { tcp, udp } drop
				ether daddr %[1]s icmp type echo-reply drop
				ether daddr %[1]s icmpv6 type echo-reply drop
			}
		}`, w.Inside[i].MAC))
	}
	await.Must(t, w.Client.SetSysctl("net/ipv4/fib_multipath_hash_policy", "1"))
	await.Must(t, w.Client.SetSysctl("net/ipv6/fib_multipath_hash_policy", "1"))
	host.Shell(t, w.Client, `
		ip -4 route replace 192.168.1.0/24 nexthop via 10.9.0.1 nexthop via 10.9.0.2
		ip -6 route replace 2001:db8:1::/64 nexthop via 2001:db8:9::1 nexthop via 2001:db8:9::2`)
	for f, gateway := range w.gateway {
		host.Shell(t, w.Server.Host, fmt.Sprintf("ip %s route add default via %s dev eth1 metric 5000", ipFlag(f), gateway))
	}
	if twoNICs {
		host.Nft(t, w.Production.Host, `table inet sources {
			chain taken { }
			chain forward { type filter hook forward priority filter;
				jump taken
				ip saddr 192.168.1.0/24 drop
				ip6 saddr 2001:db8:1::/64 drop
			}
		}`)
	}
	return w
}

// shared is a sender that is both routers. Its first connection is open at once.
func (w *waysBed) shared(t *testing.T, name string) *sender {
	t.Helper()
	own := w.own(t)
	s := &sender{name, w.ClientEth0, own, own, w.to(w.mac), w.to(w.mac), 1}
	if len(w.nics) > 1 {
		s.wrong = w.asRouted()
	}
	return s
}

// byFirst has the first router alone bring requests.
func (s *sender) byFirst(t *testing.T) *sender {
	t.Helper()
	lead(t, s.client.Host, s.asked, outside(0))
	return s
}

// lose has some of the SYN-ACKs to a sender's clients lost: of so many each time those of these numbers.
func (s *sender) lose(of int, numbers string) string {
	return rules(s.own, fmt.Sprintf("%%s saddr %%s tcp flags & (syn | ack) == (syn | ack) numgen inc mod %d %s drop", of, numbers))
}

// loseFirst has the very first ones lost.
func (s *sender) loseFirst(count int) string { return s.lose(1<<20, fmt.Sprint("< ", count)) }

// loses replaces what is lost, and counts anew.
func (w *waysBed) loses(t *testing.T, rules string) {
	t.Helper()
	addRules(t, w.At[0].Host, "inet lost", ofForwarded, "")
	host.Shell(t, w.At[0].Host, "nft delete table inet lost")
	addRules(t, w.At[0].Host, "inet lost", ofForwarded, rules)
}

// testVirtualRouter holds that nothing is learnt, whatever is lost, late or doubled, that would lose a reply.
func testVirtualRouter(t *testing.T, twoNICs bool) {
	w := newVirtualRouter(t, twoNICs)
	crowd, lost, late, doubled := w.shared(t, "crowd"), w.shared(t, "first lost"), w.shared(t, "late").byFirst(t), w.shared(t, "doubled")
	few, more, routed := w.shared(t, "5 percent lost"), w.shared(t, "10 percent lost"), w.shared(t, "first lost, as routed works").byFirst(t)
	reset := w.shared(t, "late, as routed reset").byFirst(t)
	lost.rounds, routed.rounds = 3, 3
	if twoNICs {
		lost.rounds = 4
		addRules(t, w.Production.Host, "inet sources", "taken {",
			rules(routed.own, "%s saddr %s accept")+rules(reset.own, "%s saddr %s meta l4proto tcp reject with tcp reset"))
		lead(t, w.Production.Host, reset.own, addressesOf(w.Server.Eth0))
	} else {
		await.Must(t, w.Client.SetSysctl("net/ipv4/tcp_timestamps", "0"))
	}
	w.loses(t, lost.loseFirst(1)+late.loseFirst(1)+reset.loseFirst(1)+routed.loseFirst(1)+few.lose(20, "19")+more.lose(10, "9"))
	double(t, w, doubled)
	together(t, ofEach([]*sender{crowd}, (*sender).control))
	w.start(t)
	guards := []map[string]func(*testing.T){
		ofEach([]*sender{crowd, doubled}, func(s *sender, t *testing.T, f topology.Family) { s.atOnce(t, f, 60) }),
		ofEach([]*sender{lost}, (*sender).works),
		ofEach([]*sender{few, more}, w.lossy),
		ofEach([]*sender{late}, w.late),
	}
	if twoNICs {
		guards = append(guards, ofEach([]*sender{routed}, w.eitherWay), ofEach([]*sender{reset}, w.late))
	}
	together(t, guards...)
	if !twoNICs {
		return
	}
	w.cutOff(t, reset)
	// What was learnt of a frame that was lost is forgotten with the second opinion.
	w.p.Age(2 * time.Minute)
	together(t, ofEach([]*sender{routed}, func(s *sender, t *testing.T, f topology.Family) {
		s.opens(t, f, 1, 1)
		s.atOnce(t, f, 10)
	}))
}

// double has both routers forward each SYN to a sender's address four times.
func double(t *testing.T, w *waysBed, s *sender) {
	t.Helper()
	for _, router := range w.At[:2] {
		for f, ip := range map[topology.Family]string{topology.IPv4: "ip", topology.IPv6: "ip6"} {
			again := fmt.Sprintf("%s daddr %s tcp flags syn dup to %[2]s device inside\n", ip, s.own[f])
			addRules(t, router.Host, ip+" double", ofForwarded, again+again+again)
		}
	}
}

// lossy has connections lose some SYN-ACKs. All are opened, and nothing is tried that would lose more.
func (w *waysBed) lossy(s *sender, t *testing.T, f topology.Family) {
	s.ask(t, f, 60)
	exits := wire.TapAll(t, w.nics...)
	again := 0
	for _, took := range s.ask(t, f, 60) {
		if len(took) > 1 {
			again++
		}
	}
	s.right.want(exits, s.name, topology.All(topology.TCP, topology.From(s.own[f])))
	if again == 0 || again > 12 {
		t.Errorf("of 60 connections %d took another SYN-ACK", again)
	}
}

// late has the first SYN-ACK by the way that works arrive after 1.4 s, when another has left by another way: it is not known
// which one the client acknowledges. It is not known either to ten more that begin then.
func (w *waysBed) late(s *sender, t *testing.T, f topology.Family) {
	const delay = 1400 * time.Millisecond
	exits, ctx := wire.TapAll(t, w.nics...), await.Within(t, await.AnswerTime)
	c := traffic.NewConversation(t, traffic.TCP, s.client, s.asked[f])
	opened, asked := make(chan error, 1), make(chan error, 1)
	go func() { opened <- c.Connect(ctx) }()
	held := *wait(t, exits.At(w.Server.Eth1), topology.All(c.Answers(), topology.ToMAC(s.right.to), topology.Going(topology.Received)))
	<-time.After(time.Until(held.Time.Add(delay))) // on its way
	copy(held.Data, s.client.MAC)
	traffic.NewInjector(t, s.client.Peer()).SendAgain(&held)
	await.Must(t, await.Receive(t, opened))
	if took := roundsOf(exits, c.Answers()); len(took) < 2 {
		t.Errorf("the late SYN-ACK was the first: %s", wire.Describe(took))
	}
	go func() { asked <- c.Ask(ctx) }()
	s.ask(t, f, 10)
	await.Must(t, await.Receive(t, asked))
	s.atOnce(t, f, 10)
}

// cutOff has what is sent by an open connection be lost, of which nothing is known, until the firewall has reset what was sent
// as routed: the server does not hear of that, and goes on.
func (w *waysBed) cutOff(t *testing.T, s *sender) {
	goOn := s.keepOpen(t)
	w.p.Expect(0, "flows", "flush")
	w.loses(t, rules(s.own, "%s saddr %s drop"))
	exits := wire.TapAll(t, w.nics...)
	together(t, goOn, map[string]func(*testing.T){"cut off": func(t *testing.T) {
		for _, own := range s.own {
			reset := topology.All(topology.TCP, topology.To(own), topology.Flags(topology.RST, topology.RST), topology.Going(topology.Sent))
			await.Eventually(t, "the firewall resets", func() error {
				if len(exits.All(reset)) == 0 {
					return errors.New("it did not")
				}
				return nil
			})
		}
		w.loses(t, "")
	}})
}

// eitherWay has the way by eth0 work, too: it may be learnt, as a SYN-ACK by the rule's way was lost.
func (w *waysBed) eitherWay(s *sender, t *testing.T, f topology.Family) {
	either := *s
	either.right.by = nil
	either.opens(t, f, 1, s.rounds)
	either.atOnce(t, f, 10)
}

// TestWaysFirst has the very first SYN-ACK through a virtual router be lost, again and again: what a host learns first is
// what counts.
func TestWaysFirst(t *testing.T) {
	beds, times := 5, 10
	if short.Run(t) {
		beds, times = 3, 1
	}
	all := make(map[string]func(*testing.T))
	for i := range beds {
		all[fmt.Sprint(i+1)] = func(t *testing.T) {
			twoNICs := i%2 == 1
			w := newVirtualRouter(t, twoNICs)
			senders, lost := make([]*sender, 4), ""
			for i := range senders {
				senders[i] = w.shared(t, fmt.Sprint("sender ", i))
				senders[i].rounds = 3
				if twoNICs {
					senders[i].rounds = 4
				}
				lost += senders[i].loseFirst(1)
			}
			for range times {
				w.loses(t, lost)
				w.start(t)
				together(t, ofEach(senders, (*sender).works))
				w.p.Expect(0, "detach", "--stop")
			}
		}
	}
	together(t, all)
}
