// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"replypath/test/await"
	"replypath/test/host"
	"replypath/test/product"
	"replypath/test/topology"
	"replypath/test/traffic"
	"replypath/test/wire"
)

// routers is a server whose eth1 has several routers.
type routers struct{ *topology.Routers }

func newRouters(t *testing.T) routers {
	t.Helper()
	r := routers{traffic.Build(t, topology.NewRouters)}
	traffic.ServeNICs(t, r.Server.Eth1)
	return r
}

// bring has one of the routers bring what the client sends to eth1.
func (r routers) bring(t *testing.T, router int) {
	t.Helper()
	host.Shell(t, r.Client, fmt.Sprintf(`
		ip -4 route replace 192.168.1.0/24 via 10.9.0.%[1]d
		ip -6 route replace 2001:db8:1::/64 via 2001:db8:9::%[1]d`, router+1))
}

// to is the exit by eth1 to a MAC.
func (r routers) to(mac net.HardwareAddr) exit { return exit{r.Server.NICs(), r.Server.Eth1, mac} }

// Routes by eth1 that lead to somewhere else, or to where the client is.
var (
	elsewhere    = map[topology.Family]string{topology.IPv4: "10.50.0.0/16", topology.IPv6: "2001:db8:50::/48"}
	andFurther   = map[topology.Family]string{topology.IPv4: "10.60.0.0/16", topology.IPv6: "2001:db8:60::/48"}
	metadata     = map[topology.Family]string{topology.IPv4: "169.254.169.254", topology.IPv6: "fd00:ec2::254"}
	whereTheyAre = map[topology.Family]string{topology.IPv4: "10.9.0.0/24", topology.IPv6: "2001:db8:9::/64"}
	anywhere     = map[topology.Family]string{topology.IPv4: "default", topology.IPv6: "default"}
)

// route adds routes by one of the routers, or takes them away.
func (r routers) route(t *testing.T, change string, to map[topology.Family]string, router int, table string) {
	t.Helper()
	for _, f := range traffic.Families {
		host.Shell(t, r.Server.Host, fmt.Sprintf("ip %s route %s %s via %s dev eth1 table %s metric %d",
			ipFlag(f), change, to[f], r.Inside[router].Address(f), table, 5000+router))
	}
}

// rule adds rules of both families, or takes them away. OWN stands for eth1's address.
func (r routers) rule(t *testing.T, change, words string) {
	t.Helper()
	for _, f := range traffic.Families {
		own := r.Server.Eth1.Address(f).String()
		host.Shell(t, r.Server.Host, fmt.Sprintf("ip %s rule %s %s", ipFlag(f), change, strings.ReplaceAll(words, "OWN", own)))
	}
}

// waitKnown waits until the routers' MACs are known by which routes of eth1 lead, and nobody else's.
func (r routers) waitKnown(t *testing.T, p *product.Product, addresses ...netip.Addr) {
	t.Helper()
	await.Eventually(t, "eth1's gateways are known", func() error {
		known := p.Status().Interface("eth1").Gateways
		usable := 0
		for _, g := range known {
			if product.OrEmpty(g.MAC) != "" && slices.Contains(addresses, netip.MustParseAddr(g.Address)) {
				usable++
			}
		}
		if usable != len(addresses) || len(known) != len(addresses) {
			return fmt.Errorf("eth1's gateways are %+v", known)
		}
		return nil
	})
}

// inside returns the addresses of some routers at eth1.
func (r routers) inside(of ...int) (all []netip.Addr) {
	for _, router := range of {
		for _, f := range traffic.Families {
			all = append(all, r.Inside[router].Address(f))
		}
	}
	return all
}

// conversations are new ones of every kind.
func (r routers) conversations(t *testing.T) []*traffic.Conversation {
	t.Helper()
	return conversations(t, r.ClientEth0, r.Server.Eth1, traffic.Families...)
}

// wantThrough asks, and wants each answer by eth1 to one of the routers.
func (r routers) wantThrough(t *testing.T, router int, conversations ...*traffic.Conversation) {
	t.Helper()
	for _, c := range conversations {
		r.to(r.Inside[router].MAC).askBy(t, c)
	}
}

// wantThroughAgain is wantThrough when the flows choose their next hop anew, as they do once a second, and after that.
func (r routers) wantThroughAgain(t *testing.T, p *product.Product, router int, conversations ...*traffic.Conversation) {
	t.Helper()
	p.Age(2 * time.Second)
	for range 2 {
		r.wantThrough(t, router, conversations...)
	}
}

// TestRouters has the routers of eth1 bring questions: each flow goes back through the one that brought its questions, as
// far as no route says who leads to the client, whatever else routes lead to.
func TestRouters(t *testing.T) {
	r := newRouters(t)
	for key, value := range map[string]string{
		"ipv4/neigh/eth1/delay_first_probe_time": "1", "ipv6/neigh/eth1/delay_first_probe_time": "1",
	} {
		await.Must(t, r.Server.SetSysctl("net/"+key, value))
	}
	r.rule(t, "add", "lookup 101 prio 40000")
	r.route(t, "add", elsewhere, 1, "main")
	r.route(t, "add", andFurther, 2, "101")
	p, d := product.StartOn(t, r.Server.Host, "--config", product.WriteConfig(t, product.SmallTables))
	r.waitKnown(t, p, r.inside(1, 2)...)
	t.Run("elsewhere", func(t *testing.T) {
		for router := range r.At {
			r.bring(t, router)
			r.wantThrough(t, router, r.conversations(t)...)
		}
	})
	t.Run("bound", func(t *testing.T) { testBoundToEth1(t, r) })
	r.route(t, "del", elsewhere, 1, "main")
	r.route(t, "del", andFurther, 2, "101")
	r.waitKnown(t, p)

	t.Run("another router", func(t *testing.T) {
		for _, f := range traffic.Families {
			c := traffic.NewConversation(t, traffic.TCP, r.ClientEth0, r.Server.Eth1.Address(f))
			for _, router := range []int{0, 1, 2, 0} {
				r.bring(t, router)
				r.wantThrough(t, router, c)
			}
		}
	})
	for _, table := range []string{"main", "101"} {
		t.Run("elsewhere comes/"+table, func(t *testing.T) { testRouteComes(t, r, p.In(t), table) })
	}
	t.Run("for some", func(t *testing.T) { testRouteForSome(t, r, p.In(t)) })
	t.Run("to one host", func(t *testing.T) { testRouteToOneHost(t, r, p.In(t)) })
	t.Run("several", func(t *testing.T) { testSeveralRouters(t, r, p.In(t)) })

	d.Reconfigure(product.SmallTables + "interfaces:\n  - name: eth0\n  - name: eth1\n    next_hop: gateway\n")
	t.Run("next hop gateway", func(t *testing.T) { testRouteElsewhereByGateway(t, r, p.In(t)) })
}

// testBoundToEth1 asks a socket that is bound to eth1: its answers, too, go to the router that brought the question.
func testBoundToEth1(t *testing.T, r routers) {
	const port = 7007
	r.bring(t, 0)
	for _, f := range traffic.Families {
		traffic.ServeAt(t, r.Server.Host, netip.AddrPortFrom(r.Server.Eth1.Address(f), port), topology.BindToDevice("eth1"))
		for _, kind := range []traffic.Kind{traffic.TCP, traffic.UDP} {
			c := traffic.NewConversation(t, kind, r.ClientEth0, r.Server.Eth1.Address(f))
			c.Self = netip.AddrPortFrom(c.Self.Addr(), port)
			r.wantThrough(t, 0, c)
		}
	}
}

// testRouteComes has a route to somewhere else come and go while connections are alive, and one to where the client is:
// who is there is answered through its router.
func testRouteComes(t *testing.T, r routers, p *product.Product, table string) {
	r.bring(t, 0)
	open := r.conversations(t)
	r.wantThrough(t, 0, open...)
	r.route(t, "add", elsewhere, 1, table)
	r.waitKnown(t, p, r.inside(1)...)
	r.wantThroughAgain(t, p, 0, open...)
	r.wantThrough(t, 0, r.conversations(t)...)
	r.bring(t, 1)
	r.wantThrough(t, 1, r.conversations(t)...)
	r.bring(t, 0)
	if table != "main" { // where the kernel itself would send them by eth1
		r.route(t, "add", whereTheyAre, 1, table)
		for _, f := range traffic.Families {
			await.Eventually(t, "the route counts", func() error {
				c := traffic.NewConversation(t, traffic.UDP, r.ClientEth0, r.Server.Eth1.Address(f))
				exits := wire.TapAll(t, r.Server.NICs()...)
				traffic.Ask(t, c)
				for _, frame := range exits.Left(r.Server.Eth1, c.Answers()) {
					if frame.DestinationMAC.String() != r.Inside[1].MAC.String() {
						return fmt.Errorf("%s left to %s", c, frame.DestinationMAC)
					}
				}
				return nil
			})
		}
		r.wantThrough(t, 1, r.conversations(t)...)
		r.route(t, "del", whereTheyAre, 1, table)
	}
	r.route(t, "del", elsewhere, 1, table)
	r.waitKnown(t, p)
	r.wantThroughAgain(t, p, 0, open...)
}

// testRouteForSome has a default route by another router in a table that a rule asks for some packets only, as those with a
// mark: who brought a question without one is answered. A rule for all packets, or for those from eth1's address, counts within
// a second.
func testRouteForSome(t *testing.T, r routers, p *product.Product) {
	r.bring(t, 0)
	open := r.conversations(t)
	r.wantThrough(t, 0, open...)
	r.route(t, "add", anywhere, 1, "200")
	for counts, others := range map[string][]string{
		"lookup 200 prio 40000":        {"fwmark 5 lookup 200 prio 100", "uidrange 33-33 lookup 200 prio 101"},
		"from OWN lookup 200 prio 102": {"iif eth0 lookup 200 prio 103", "not fwmark 5 goto 105 prio 104", "lookup main prio 105"},
	} {
		added := time.Now()
		r.rule(t, "add", counts)
		r.waitKnown(t, p, r.inside(1)...)
		if took := time.Since(added); took > await.Patient(time.Second) {
			t.Errorf("%s counts after %s", counts, took)
		}
		r.wantThroughAgain(t, p, 1, r.conversations(t)...)
		for _, rule := range others {
			r.rule(t, "add", rule)
		}
		r.rule(t, "del", counts)
		r.waitKnown(t, p)
		r.wantThroughAgain(t, p, 0, open...)
		r.wantThrough(t, 0, r.conversations(t)...)
		for _, rule := range others {
			r.rule(t, "del", rule)
		}
	}
	r.route(t, "del", anywhere, 1, "200")
}

// testRouteToOneHost has a route for a single host come, as those to a cloud's metadata are, by another router than the one
// that brings the questions.
func testRouteToOneHost(t *testing.T, r routers, p *product.Product) {
	r.bring(t, 0)
	open := r.conversations(t)
	r.wantThrough(t, 0, open...)
	r.route(t, "add", metadata, 1, "main")
	wantThroughFirst := func() {
		t.Helper()
		await.Eventually(t, "the other router has answered", func() error {
			gateways, reachable := p.Status().Interface("eth1").Gateways, 0
			for _, g := range gateways {
				if g.State == "reachable" {
					reachable++
				}
			}
			if reachable != 2 || len(gateways) != 2 {
				return fmt.Errorf("eth1's gateways are %+v", gateways)
			}
			return nil
		})
		r.wantThrough(t, 0, open...)
		r.wantThrough(t, 0, r.conversations(t)...)
	}
	wantThroughFirst()
	// Its entries get old, and are checked: events of which none tells what its routes are.
	for _, address := range r.inside(1) {
		host.Shell(t, r.Server.Host, fmt.Sprintf("ip neigh change %s lladdr %s dev eth1 nud stale", address, r.Inside[1].MAC))
	}
	wantThroughFirst()
	r.route(t, "del", metadata, 1, "main")
	r.waitKnown(t, p)
}

// testSeveralRouters has three routers bring questions, all of which stand in routes: each flow goes back through its own,
// also when the next question of another flow comes by another.
func testSeveralRouters(t *testing.T, r routers, p *product.Product) {
	for router := range r.At {
		r.route(t, "add", anywhere, router, "main")
	}
	r.waitKnown(t, p, r.inside(0, 1, 2)...)
	begun := make(map[int][]*traffic.Conversation)
	for router := range r.At {
		r.bring(t, router)
		begun[router] = r.conversations(t)
		r.wantThrough(t, router, begun[router]...)
	}
	for router, conversations := range begun {
		r.bring(t, router)
		for _, c := range conversations {
			r.to(r.Inside[router].MAC).wantAnswers(t, c, c.Answers())
		}
	}
	for router := range r.At {
		r.route(t, "del", anywhere, router, "main")
	}
}

// testRouteElsewhereByGateway has `next_hop: gateway`: through a router that no route names nothing is sent to one that
// leads elsewhere, but left to the kernel, and counted; through the one that a route names answers go there.
func testRouteElsewhereByGateway(t *testing.T, r routers, p *product.Product) {
	r.route(t, "add", elsewhere, 1, "main")
	r.waitKnown(t, p, r.inside(1)...)
	r.bring(t, 1)
	r.wantThrough(t, 1, r.conversations(t)...)
	r.bring(t, 0)
	counted := func() float64 {
		return p.Metrics().Sum("replypath_uncorrected_packets_total", "to_interface=eth1", "reason=no_next_hop")
	}
	before, answers := counted(), 0
	for _, c := range r.conversations(t) {
		exits := wire.TapAll(t, r.Server.NICs()...)
		traffic.Ask(t, c)
		if left := exits.Left(r.Server.Eth1, c.Answers()); len(left) > 0 {
			t.Errorf("%s: by eth1 left %s", c, wire.Describe(left))
		}
		answers += len(exits.Left(r.Server.Eth0, c.Answers()))
	}
	if more := counted() - before; answers == 0 || more < float64(answers) {
		t.Errorf("%d answers left by eth0, %.0f counted", answers, more)
	}
}
