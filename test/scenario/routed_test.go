// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"context"
	"fmt"
	"runtime"
	"testing"

	"golang.org/x/sync/errgroup"

	"replypath/test/await"
	"replypath/test/host"
	"replypath/test/product"
	"replypath/test/short"
	"replypath/test/topology"
	"replypath/test/traffic"
	"replypath/test/wire"
)

// exclusions are lists of the configuration, and which answers they are about.
var exclusions = map[string]func(*traffic.Conversation) bool{
	`[10.9.0.100/32, "2001:db8:9::100"]`:    func(*traffic.Conversation) bool { return true },
	`[10.9.0.0/24]`:                         func(c *traffic.Conversation) bool { return c.Self.Addr().Is4() },
	`[{self: "2001:db8:2::100/128"}]`:       func(c *traffic.Conversation) bool { return c.Self.Addr().Is6() },
	`[{self: 10.2.0.101}, 10.9.0.101]`:      func(*traffic.Conversation) bool { return false },
	`[{protocol: udp, self_port: 7}]`:       func(c *traffic.Conversation) bool { return c.Kind == traffic.UDP },
	`[{protocol: tcp, self_port: 8}]`:       func(*traffic.Conversation) bool { return false },
	`[{protocol: tcp}, {protocol: icmpv6}]`: func(c *traffic.Conversation) bool { return c.Protocol() == "tcp" || c.Protocol() == "icmpv6" },
	`[{peer: 10.9.0.100/32, self: 10.2.0.100, protocol: tcp, self_port: 7}]`: func(c *traffic.Conversation) bool {
		return c.Self.Addr().Is4() && c.Kind == traffic.TCP
	},
}

// TestRouted has the configuration exclude what the client asks, and the administrator forbid the way to the client.
func TestRouted(t *testing.T) {
	n := traffic.NewTwoNIC(t, topology.TwoNICOptions{Policy: topology.AnySource})
	_, d := product.StartOn(t, n.Server.Host, "--config", product.WriteConfig(t, "{}\n"))
	t.Run("forbidden", func(t *testing.T) { testForbiddenRoute(t, n) })
	t.Run("excluded", func(t *testing.T) { testExclude(t, n, d) })
}

// testExclude asks every kind of question under each list: what is excluded goes as routed, by eth0, all else by eth1.
// Flows that have begun before an exclusion are not moved any more either.
func testExclude(t *testing.T, n *topology.TwoNIC, d *product.Daemon) {
	begun := conversations(t, n.ClientEth0, n.Server.Eth1, traffic.Families...)
	for _, c := range begun {
		traffic.Ask(t, c)
	}
	for list, is := range exclusions {
		t.Run(list, func(t *testing.T) {
			d.Reconfigure("exclude: " + list + "\n")
			for _, c := range append(conversations(t, n.ClientEth0, n.Server.Eth1, traffic.Families...), begun...) {
				wire.WantBy(t, n.Server, c, !is(c))
			}
		})
	}
}

// testForbiddenRoute has the administrator forbid the way to the client: nothing leaves for it by any NIC, neither
// answers to new questions nor those of a conversation that goes on, until the route is taken away.
func testForbiddenRoute(t *testing.T, n *topology.TwoNIC) {
	nics := []*topology.Interface{n.Server.Eth1, n.Server.Eth0}
	for _, kind := range []string{"prohibit", "unreachable", "blackhole"} {
		for _, f := range traffic.Families {
			t.Run(kind+"/"+f.String(), func(t *testing.T) {
				begun := conversations(t, n.ClientEth0, n.Server.Eth1, f)
				for _, c := range begun {
					traffic.Ask(t, c)
				}
				route := fmt.Sprintf("%s %s", kind, whereTheyAre[f])
				host.Shell(t, n.Server.Host, "ip route add "+route)
				for _, c := range append(begun, conversations(t, n.ClientEth0, n.Server.Eth1, f)...) {
					wantNoAnswer(t, c, nics...)
				}
				host.Shell(t, n.Server.Host, "ip route del "+route)
				for _, c := range conversations(t, n.ClientEth0, n.Server.Eth1, f) {
					wantAnswers(t, n.Server, c, true)
				}
			})
		}
	}
}

// TestLost has many clients ask all the time while replypath starts: what eth0's program moves before eth1 has one is not
// taken for lost. Then somebody's program at eth1 takes what was moved there: it is counted as lost, and nothing else is.
func TestLost(t *testing.T) {
	s := traffic.NewS1(t, topology.S1Options{Policy: topology.AnySource})
	p := product.On(t, s.B.Host)
	startBesideQuestions(t, s, p)
	each(t, s, "before", func(t *testing.T, c *traffic.Conversation) { wantAnswers(t, s.B, c, true) })
	lost := func() float64 { return p.Metrics().Sum("replypath_lost_packets_total") }
	await.Same(t, "packets that are lost before anybody takes them", 0, lost())
	thief := host.TakeUDP(t, s.B.Eth1)
	corrected := p.Metrics().Sum("replypath_corrected_packets_total", "protocol=udp")
	questions := runtime.NumCPU() + 1 // a processor counts what it lost with the next packet that it moves
	for range questions {
		c := traffic.NewConversation(t, traffic.UDP, s.A.Eth1, s.B.Eth1.Address(topology.IPv4))
		if err := c.Ask(await.Within(t, await.SilenceTime)); err == nil {
			t.Error("a question was answered, although the answer was taken")
		}
	}
	m := p.Metrics()
	labels := []string{"from_interface=eth0", "to_interface=eth1", "family=ipv4", "protocol=udp", "reason=unseen"}
	if n := m.Sum("replypath_lost_packets_total", labels...); n < 1 || n >= float64(questions) || n != lost() {
		t.Errorf("%v packets of %v are lost", n, lost())
	}
	await.Same(t, "packets that were corrected", corrected, m.Sum("replypath_corrected_packets_total", "protocol=udp"))
	await.Must(t, thief.Close())
	each(t, s, "after", func(t *testing.T, c *traffic.Conversation) { wantAnswers(t, s.B, c, true) })
}

// startBesideQuestions starts replypath again and again while clients ask, and wants nothing to be taken for lost.
func startBesideQuestions(t *testing.T, s *topology.S1, p *product.Product) {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	var asking errgroup.Group
	for n := range 8 {
		c := traffic.NewConversation(t, traffic.UDP, s.A.Eth1, s.B.Eth1.Address(s.Families()[n%2]))
		traffic.Ask(t, c)
		asking.Go(func() error {
			for ctx.Err() == nil {
				if err := c.Ask(await.Within(t, await.AnswerTime)); err != nil {
					return err
				}
			}
			return nil
		})
	}
	starts := 5
	if short.Run(t) {
		starts = 2
	}
	for start := range starts {
		if start > 0 {
			p.Expect(0, "detach", "--stop")
		}
		p.Start()
		await.Becomes(t, "replies are corrected", true, func() bool { return p.Metrics().Sum("replypath_corrected_packets_total") >= 1000 })
		await.Same(t, "packets that are taken for lost", 0, p.Metrics().Sum("replypath_lost_packets_total"))
	}
	stop()
	await.Must(t, asking.Wait())
}
