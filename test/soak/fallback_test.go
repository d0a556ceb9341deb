// SPDX-License-Identifier: Apache-2.0

package soak

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"replypath/test/harness"
	"replypath/test/topology"
)

// bridged is what was answered while the fallback routes were all that the server had.
type bridged struct {
	// Answers are those of conversations that have to go on.
	Answers int64 `json:"answers"`
	// Pauses are the longest between two answers of one of them, in seconds, by its kind. Datagrams
	// and pings are repeated by who asks, after a second.
	Pauses map[string]float64 `json:"pauses"`
	// Refused are connections of the server's own, each at once.
	Refused int `json:"refused"`
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
	if s.hasSecondDefault = !s.hasSecondDefault; s.hasSecondDefault {
		s.addSecondDefault()
	} else {
		s.removeSecondDefault()
	}
}

func (s *soak) addSecondDefault() { s.t.Helper(); s.eachSecondDefault(s.n.Server.AddRoute) }

func (s *soak) removeSecondDefault() { s.t.Helper(); s.eachSecondDefault(s.n.Server.RemoveRoute) }

func (s *soak) eachSecondDefault(do func(topology.Route) error) {
	s.t.Helper()
	for _, gateway := range first["replication"] {
		harness.Must(s.t, do(topology.Route{Via: gateway.Addr(), Interface: "eth1", Metric: secondMetric}))
	}
}

// loseDefault takes all default routes away and gives them back. Nothing that clients ask may
// notice, by neither interface.
func (s *soak) loseDefault() {
	const event = "no default route"
	s.t.Helper()
	s.load.leave(event, func(a *asker) bool { return a.own })
	defer s.load.comeBack()
	b := s.load.bridge(s.n.Server.Eth0, s.n.Server.Eth1)
	if s.hasSecondDefault {
		s.removeSecondDefault()
	}
	harness.Shell(s.t, s.n.Server.Host, "ip route del default dev eth0; ip -6 route del default dev eth0")
	s.goOn(event, b)
	s.setDefault()
	if s.hasSecondDefault {
		s.addSecondDefault()
	}
}

// loseCarrier pulls the plug of eth0, which holds the only default routes then, and puts it
// in again. Nothing that clients ask by other interfaces may notice; by eth0 they are answered
// again afterwards.
func (s *soak) loseCarrier() {
	const event = "no carrier"
	s.t.Helper()
	if s.hasSecondDefault { // beside another one, the kernel goes on using the first
		s.changeSecondDefault()
	}
	s.awaitGivingWay()
	eth0, router := s.n.Server.Eth0, s.n.Server.Eth0.Peer()
	s.load.leave(event, func(a *asker) bool { return a.own || a.asks(eth0) })
	defer s.load.comeBack()
	b := s.load.bridge(s.n.Server.Eth1)
	harness.Must(s.t, router.SetDown())
	s.goOn(event, b)
	harness.Must(s.t, router.SetUp())
	s.giveBack(router)
	s.awaitRoute("eth0")
	s.load.bridge(eth0).await(s.t, 1)
}

// giveBack adds the IPv6 addresses that the kernel takes off what is down.
func (s *soak) giveBack(router *topology.Interface) {
	s.t.Helper()
	for _, addresses := range []map[string][]netip.Prefix{first, second} {
		for _, address := range addresses[router.Host.Name] {
			if err := router.AddAddress(address); err != nil && !errors.Is(err, unix.EEXIST) {
				s.t.Fatal(err)
			}
		}
	}
}

// awaitGivingWay returns when the daemon knows that eth0 holds the only default routes.
func (s *soak) awaitGivingWay() {
	s.t.Helper()
	for _, f := range s.n.Families() {
		key := fmt.Sprintf("net/%s/conf/eth0/ignore_routes_with_linkdown", f)
		harness.Eventually(s.t, key, func() error {
			value, err := s.n.Server.Sysctl(key)
			if err == nil && value != "1" {
				err = fmt.Errorf("it is %s", value)
			}
			return err
		})
	}
}

// awaitRoute returns when the kernel's way to the client is by an interface.
func (s *soak) awaitRoute(by string) {
	s.t.Helper()
	nic := harness.Must1[*topology.Interface](s.t)(s.n.Server.Interface(by))
	for _, f := range s.n.Families() {
		client := s.n.ClientEth0.Address(f)
		harness.Eventually(s.t, fmt.Sprintf("%s is reached by %s", client, by), func() error {
			routes, err := s.n.Server.Netlink().RouteGet(client.AsSlice())
			if err == nil && (len(routes) != 1 || routes[0].LinkIndex != nic.Index) {
				err = fmt.Errorf("by %v", routes)
			}
			return err
		})
	}
}

// goOn wants conversations to go on, and new connections to what came late, where only the
// fallback routes are left. What the server itself begins is refused.
func (s *soak) goOn(event string, b *bridge) {
	s.t.Helper()
	s.awaitRoute("replypath0")
	b.await(s.t, moreAnswers)
	s.visitPresent("in event " + event)
	total := s.report.Bridged[event]
	total.Refused += s.wantRefused(event)
	total.Answers += b.answers()
	if total.Pauses == nil {
		total.Pauses = make(map[string]float64)
	}
	for kind, pause := range b.pauses {
		total.Pauses[kind] = max(total.Pauses[kind], pause.Seconds())
	}
	if pause := b.pauses["tcp"]; pause >= harness.Patient(oneRetransmission) {
		s.report.fail(fmt.Sprintf("in event %s a connection paused for %s", event, pause))
	}
	s.report.Bridged[event] = total
}

// refusedWithin is before a SYN would be sent again.
const refusedWithin = time.Second

// wantRefused has the server open a connection of each family, which is refused at once.
func (s *soak) wantRefused(event string) (count int) {
	s.t.Helper()
	for _, f := range s.n.Families() {
		to := netip.AddrPortFrom(s.n.ClientEth0.Address(f), harness.EchoPort).String()
		begun := time.Now()
		conn, err := s.load.dial(s.n.Server.Host, "tcp", to)
		if err == nil {
			conn.Close()
		}
		if took := time.Since(begun); !errors.Is(err, unix.ECONNREFUSED) || took >= harness.Patient(refusedWithin) {
			s.report.fail(fmt.Sprintf("in event %s the server's connection to %s after %s: %v", event, to, took, err))
			continue
		}
		count++
	}
	return count
}
