// SPDX-License-Identifier: Apache-2.0

package soak

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"replypath/test/await"
	"replypath/test/host"
	"replypath/test/product"
	"replypath/test/topology"
	"replypath/test/traffic"
)

// bridged is what was answered while the fallback routes were all that the server had.
type bridged struct {
	answers int64         // those of conversations that have to go on
	pause   time.Duration // the longest between two answers of a connection
}

// moreAnswers is how many each conversation gets by way of a fallback route: with the pace
// of the questions, half a second and more.
const moreAnswers = 25

// oneRetransmission is more than TCP takes to repeat a segment, and less than to repeat it twice.
const oneRetransmission = 500 * time.Millisecond

// secondMetric is that of eth1's default route, which nobody uses while there is eth0's.
const secondMetric = 5000

// changeSecondDefault gives eth1 default routes behind those of eth0, or takes them away.
func (s *soak) changeSecondDefault() {
	s.t.Helper()
	do := s.n.Server.AddRoute
	if s.hasSecondDefault {
		do = s.n.Server.RemoveRoute
	}
	for _, gateway := range first["replication"] {
		await.Must(s.t, do(topology.Route{Via: gateway.Addr(), Interface: "eth1", Metric: secondMetric}))
	}
	s.hasSecondDefault = !s.hasSecondDefault
}

// loseDefault takes all default routes away and gives them back. Nothing that clients ask may
// notice, by neither interface.
func (s *soak) loseDefault() {
	const event = "no default route"
	s.t.Helper()
	defer product.Quiet(s.t)()
	b := s.bridge(s.n.Server.Eth0, s.n.Server.Eth1)
	if s.hasSecondDefault {
		s.changeSecondDefault()
		defer s.changeSecondDefault()
	}
	host.Shell(s.t, s.n.Server.Host, "ip route del default dev eth0; ip -6 route del default dev eth0")
	s.goOn(event, b)
	s.setDefault()
}

// loseCarrier pulls the plug of eth0, which holds the only default routes then, and puts it in again. Nothing that
// clients ask by other interfaces may notice; by eth0 they are answered again afterwards.
func (s *soak) loseCarrier() {
	const event = "no carrier"
	s.t.Helper()
	if s.hasSecondDefault { // beside another one, the kernel goes on using the first
		s.changeSecondDefault()
	}
	eth0, router := s.n.Server.Eth0, s.n.Server.Eth0.Peer()
	defer product.Quiet(s.t)()
	b := s.bridge(s.n.Server.Eth1)
	await.Must(s.t, router.SetDown())
	s.goOn(event, b)
	await.Must(s.t, router.SetUp())
	for _, address := range slices.Concat(first["production"], second["production"]) { // the kernel took those of IPv6 off
		if err := router.AddAddress(address); err != nil && !errors.Is(err, unix.EEXIST) {
			s.t.Fatal(err)
		}
	}
	s.awaitRoute("eth0")
	s.bridge(eth0).await(s.t, 1)
}

// awaitRules returns when rules alone lead replies to the fallback routes.
func (s *soak) awaitRules() {
	s.t.Helper()
	await.Eventually(s.t, "rules lead replies to the fallback routes", func() error {
		for _, f := range s.n.Families() {
			if active := s.p.Metrics().Sum("replypath_fallback_active", "family="+f.String()); active != 1 {
				return fmt.Errorf("%s: active %v", f, active)
			}
		}
		return nil
	})
}

// awaitRoute returns when the kernel's way to the client is by an interface.
func (s *soak) awaitRoute(by string) {
	s.t.Helper()
	nic := await.Must1[*topology.Interface](s.t)(s.n.Server.Interface(by))
	for _, f := range s.n.Families() {
		client := s.n.ClientEth0.Address(f)
		await.Eventually(s.t, fmt.Sprintf("%s is reached by %s", client, by), func() error {
			routes, err := s.n.Server.Netlink().RouteGet(client.AsSlice())
			if err == nil && (len(routes) != 1 || routes[0].LinkIndex != nic.Index) {
				err = fmt.Errorf("by %v", routes)
			}
			return err
		})
	}
}

// goOn wants conversations to go on, and new connections to what came late, where only the fallback routes are left.
func (s *soak) goOn(event string, b *bridge) {
	s.t.Helper()
	s.awaitRules()
	b.await(s.t, moreAnswers)
	s.visitPresent("in event " + event)
	total := s.report.bridged[event]
	s.report.bridged[event] = bridged{total.answers + b.answered() - b.before, max(total.pause, b.pause)}
	if b.pause >= await.Patient(oneRetransmission) {
		s.report.fail(fmt.Sprintf("in event %s a connection paused for %s", event, b.pause))
	}
}

const (
	// pace is how often a conversation asks.
	pace = 20 * time.Millisecond
	// patience is how long a ping may take before it is sent again, which has to help
	// within AnswerTime: a gateway that is replaced takes some along.
	patience = time.Second
	// visitors are how many open one connection after the other, of each family.
	visitors = 2
	// bulk is what a visitor asks for, in bytes.
	bulk = 20_000
)

// startLoad begins conversations of every kind: by eth1 and by eth0, and such as the server begins.
func (s *soak) startLoad() {
	s.t.Helper()
	s.load = traffic.NewLoad(s.t)
	// An event may leave those without a way who ask.
	s.load.Again, s.load.Repeated = patience, func(_ *traffic.Asker, _ time.Time, times int) { s.repeated.Add(int64(times)) }
	for _, f := range s.n.Families() {
		traffic.Serve(s.t, s.n.Server.Host, s.n.Server.Eth0.Address(f))
		traffic.Serve(s.t, s.n.Client, s.n.ClientEth0.Address(f))
		for _, nic := range []*topology.Interface{s.n.Server.Eth0, s.n.Server.Eth1} {
			for _, kind := range traffic.Kinds {
				s.load.Start(&traffic.Asker{Kind: kind, From: s.n.Client, To: echoAt(nic.Address(f)), Pace: pace})
			}
		}
		for _, kind := range []traffic.Kind{traffic.TCP, traffic.UDP} {
			s.load.Start(&traffic.Asker{Kind: kind, From: s.n.Server.Host, To: echoAt(s.n.ClientEth0.Address(f)), Pace: pace})
		}
		for range visitors {
			s.load.Start(&traffic.Asker{
				Kind: traffic.TCP, From: s.n.Client, To: echoAt(s.n.Server.Eth1.Address(f)), Pace: pace, Fresh: true, Bulk: bulk,
			})
		}
	}
}

func echoAt(address netip.Addr) netip.AddrPort { return netip.AddrPortFrom(address, traffic.EchoPort) }

// asks tells whether a client asks an address of an interface.
func asks(a *traffic.Asker, nic *topology.Interface) bool {
	return nic.Address(topology.FamilyOf(a.To.Addr())) == a.To.Addr()
}

// bridge looks at some askers while a fault lasts.
type bridge struct {
	load   *traffic.Load
	askers []*traffic.Asker
	before int64         // how often they had been answered
	pause  time.Duration // the longest between two answers of a connection
}

// bridge begins to look at what clients ask by some of the server's interfaces.
func (s *soak) bridge(nics ...*topology.Interface) *bridge {
	b := &bridge{load: s.load}
	for _, a := range s.load.Askers {
		for _, nic := range nics {
			if asks(a, nic) {
				b.askers = append(b.askers, a)
			}
		}
	}
	b.before = b.answered()
	return b
}

func (b *bridge) answered() (sum int64) {
	for _, a := range b.askers {
		sum += a.Answered()
	}
	return sum
}

// await returns when each has been answered so many times, to questions that it has asked since, and measures for how
// long they wait.
func (b *bridge) await(t *testing.T, times int64) {
	t.Helper()
	b.load.Await(b.askers, times, func() error {
		for _, a := range b.askers {
			if a.Kind == traffic.TCP && !a.Fresh {
				b.pause = max(b.pause, a.Silence())
			}
		}
		return nil
	})
}
