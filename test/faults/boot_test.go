// SPDX-License-Identifier: Apache-2.0

package faults

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"replypath/test/await"
	"replypath/test/host"
	"replypath/test/product"
	"replypath/test/short"
	"replypath/test/topology"
	"replypath/test/traffic"
	testwire "replypath/test/wire"
)

// bootsFor is how long a router takes to boot once its cable is in: not as long as the
// kernel asks for it before it gives up, which is 3 s.
const bootsFor = 1500 * time.Millisecond

// refusedFor is how long what the host starts may go on to be refused once a carrier is back: until the daemon knows.
const refusedFor = 500 * time.Millisecond

// booting has the router take nothing from the server, neither questions for its MAC address nor what it is to forward,
// and say nothing itself, from which the server would learn that address.
const booting = `
add table arp booting
add chain arp booting input { type filter hook input priority 0; }
add rule arp booting input iifname "server" drop
add chain arp booting output { type filter hook output priority 0; }
add rule arp booting output oifname "server" drop
add table inet booting
add chain inet booting prerouting { type filter hook prerouting priority raw; }
add rule inet booting prerouting iifname "server" drop
add chain inet booting output { type filter hook output priority 0; }
add rule inet booting output oifname "server" drop
`

const booted = "delete table arp booting\ndelete table inet booting\n"

// TestRouterBoots ends each fault while the router still boots: the default route is back, or
// the link up, and nobody there to answer. By the kernel's own timers.
func TestRouterBoots(t *testing.T) {
	t.Parallel()
	each(t, gone(), func(t *testing.T, fault fault, f topology.Family) {
		t.Parallel()
		b := newPatientBed(t, f, anySource)
		log := b.start().Log
		b.bootRouter(fault)
		if said := log.Lines("gateway does not answer"); len(said) > 0 {
			t.Errorf("the gateway was said to be silent before the kernel gave it up: %s", said)
		}
	})
}

// bootRouter has a fault end before the router answers, and wants that nobody notices on eth1
// and that nothing is told of a silent gateway yet.
func (b *bed) bootRouter(fault fault) {
	b.Helper()
	wire := testwire.Capture(b, b.net.Server.Eth1.Peer())
	b.wantHostReaches(true, traffic.TCP, traffic.UDP)
	before := b.hostChanges()
	talks := make(map[traffic.Kind]*traffic.Talk)
	for _, kind := range traffic.Kinds {
		c := b.conversation(kind)
		b.ask(c)
		if b.waitsForRules(fault) {
			talks[kind] = c.KeepRepeating(b)
		} else {
			talks[kind] = c.KeepThrough(b)
		}
	}
	release := product.Quiet(b) // which may have to wait: longer than the kernel for a router
	b.begin(fault)
	b.askPromptly(fault.name, b.conversation(traffic.TCP))
	host.Nft(b, b.net.Production.Host, booting)
	fault.end(b)
	ended := time.Now()
	connected := make(chan failure, 1)
	go func() {
		c := b.connectOnce()
		for errors.Is(c.err, unix.ECONNREFUSED) && time.Since(ended) < await.Patient(refusedFor) {
			c = b.connectOnce()
		}
		connected <- c
	}()
	slowest := b.askWhile(ended.Add(bootsFor / 3)) // what is asked of the product then takes its time, too
	state := b.gatewayState()
	if state == "held" || state == "failed" {
		b.Errorf("the gateway is %s", state)
	}
	if b.forgetsGateway(fault) {
		b.wantNoAnswer(state)
	}
	slowest = max(slowest, b.askWhile(ended.Add(bootsFor)))
	host.Nft(b, b.net.Production.Host, booted)
	release() // the kernel asks once more before it gives up
	if c := <-connected; c.err != nil {
		b.Errorf("what the host began before the router answered: %v", c.err)
	} else {
		b.Logf("what the host began before the router answered is there after %s", c.took.Round(time.Millisecond))
	}
	b.Eventually("the host reaches the client as before", func() error { return b.reach(traffic.TCP) })
	for kind, talk := range talks {
		answers := talk.Stop()
		b.Logf("%s, open %s: %d answers, the longest pause %s", fault.name, kind, answers, talk.Pause().Round(time.Microsecond))
		if talk.Pause() >= oneRetransmission {
			b.Errorf("an open conversation by %s paused for %s", kind, talk.Pause())
		}
	}
	b.Logf("new questions while the router boots: the slowest answer %s", slowest.Round(time.Microsecond))
	if slowest >= promptly {
		b.Errorf("a new question was answered after %s", slowest)
	}
	b.wantNoLeak(fault.name, wire)
	b.wantShown(fault, false)
	b.awaitChanges(before)
	b.wantRoutes()
}

// forgetsGateway tells whether the kernel has no MAC of eth0's gateway after a fault, so that it has that of before from us until
// the router answers.
func (b *bed) forgetsGateway(fault fault) bool {
	return fault.name == "link down" || fault.name == "carrier lost" && b.family == topology.IPv4
}

// wantNoAnswer wants status and metrics to tell that eth0's gateway has not answered.
func (b *bed) wantNoAnswer(state string) {
	b.Helper()
	if state != "none" && state != "incomplete" {
		b.Errorf("the gateway, which has not answered, is %s", state)
	}
	gateway := b.net.Server.Eth0.Peer().Address(b.family).String()
	reachable := b.product.Metrics().Sum("replypath_gateway_reachable", "interface=eth0", "gateway="+gateway)
	b.Logf("while the router boots the gateway is %s, replypath_gateway_reachable %v", state, reachable)
	if reachable != 0 {
		b.Error("a gateway that has not answered is told to be reachable")
	}
}

// askWhile has new clients ask by eth1 until a moment, and returns how long the slowest answer took.
func (b *bed) askWhile(until time.Time) (slowest time.Duration) {
	b.Helper()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for time.Now().Before(until) {
		for _, kind := range traffic.Kinds {
			asked := time.Now()
			b.ask(b.conversation(kind))
			slowest = max(slowest, time.Since(asked))
		}
		<-tick.C
	}
	return slowest
}

// connectOnce has the host begin a connection to the client, and tells what becomes of it.
func (b *bed) connectOnce(options ...topology.SocketOption) failure {
	b.Helper()
	began := time.Now()
	to := netip.AddrPortFrom(b.clientAddress(), traffic.EchoPort).String()
	conn, err := b.net.Server.Dial(await.Within(b, 2*await.AnswerTime), "tcp", to, options...)
	if err == nil {
		err = exchange(conn, await.AnswerTime)
		conn.Close()
	}
	return failure{time.Since(began), err}
}

// anotherMAC is that of the router that takes the place of the one that was there.
var anotherMAC = net.HardwareAddr{0x02, 0, 0, 0, 0x77, 0x01}

// foundLater is how much later than on a host without replypath a router with another MAC may be
// found: less than the second after which a question is repeated. Both hosts ask from the moment on in which
// the link is up; what was sent to the router of before is tried again after 0.3 s.
var foundLater = await.Patient(900 * time.Millisecond)

// TestRouterExchanged has a fault take away the link, and another router, with another MAC, at its
// other end when it is back. A host with replypath finds it nearly as soon as one without.
func TestRouterExchanged(t *testing.T) {
	t.Parallel()
	// No whole number of seconds: a question is repeated each second, and which host asks just before
	// the router answers, and which just after it, would be chance.
	isRun := short.Pairs(t)
	for n, boots := range []time.Duration{0, bootsFor, bootsFor + 2*time.Second} {
		for k, fault := range gone()[:2] {
			for m, f := range traffic.Families {
				if !isRun(n, k, m) {
					continue
				}
				t.Run(fmt.Sprintf("boots for %s/%s/%s", boots, fault.name, f), func(t *testing.T) {
					t.Parallel()
					alone := newPatientBed(t, f, anySource)
					beside := newPatientBed(t, f, anySource)
					beside.start()
					without, with := alone.exchangeRouter(fault, boots), beside.exchangeRouter(fault, boots)
					for what, took := range with {
						t.Logf("%s, after the new router answers: %s, without replypath %s", what, took, without[what])
						if took-without[what] >= foundLater {
							t.Errorf("%s: %s later than without replypath", what, took-without[what])
						}
					}
				})
			}
		}
	}
}

// exchangeRouter exchanges it while a fault lasts, and returns how long after it has booted the host
// reaches the client.
func (b *bed) exchangeRouter(fault fault, boots time.Duration) map[string]time.Duration {
	b.Helper()
	b.wantHostReaches(true, traffic.TCP, traffic.UDP)
	fault.begin(b)
	if boots > 0 {
		host.Nft(b, b.net.Production.Host, booting)
	}
	router := b.net.Server.Eth0.Peer()
	if _, err := router.Link(); err == nil {
		await.Must(b, router.SetMAC(anotherMAC))
	}
	router.MAC = anotherMAC
	fault.end(b)
	ended := time.Now()
	tries := map[string]func() error{
		"a connection of the host's": func() error { return b.reachWithin(inVain, traffic.TCP) },
		"a datagram of the host's":   func() error { return b.reachWithin(inVain/3, traffic.UDP) },
	}
	worked := make(map[string]chan time.Time)
	for what, try := range tries {
		done := make(chan time.Time, 1)
		worked[what] = done
		until := ended.Add(2 * await.AnswerTime)
		go func() {
			defer close(done)
			for time.Now().Before(until) {
				if try() == nil {
					done <- time.Now()
					return
				}
			}
		}()
	}
	if boots > 0 {
		<-time.After(time.Until(ended.Add(boots)))
		host.Nft(b, b.net.Production.Host, booted)
	}
	answers := time.Now()
	took := make(map[string]time.Duration)
	for what, done := range worked {
		at, ok := <-done
		if !ok {
			b.Errorf("%s: none", what)
			at = time.Now()
		}
		took[what] = max(0, at.Sub(answers)).Round(time.Millisecond)
	}
	return took
}
