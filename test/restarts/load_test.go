// SPDX-License-Identifier: Apache-2.0

package restarts

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"replypath/test/await"
	"replypath/test/topology"
	"replypath/test/traffic"
	"replypath/test/wire"
)

const (
	// busy is how many connections are open all the time, half of each family.
	busy = 100
	// busyPace is how often each of them asks, newPace how often a new one begins.
	busyPace = 200 * time.Millisecond
	newPace  = 40 * time.Millisecond
	// datagramPace is how often UDP and ping ask, of which nothing is sent again, so that whatever is lost shows.
	datagramPace = 10 * time.Millisecond
)

// load is what the client asks of the server's eth1, without end.
type load struct {
	*traffic.Load
	t    *testing.T
	n    *topology.TwoNIC
	eth0 *topology.Capture
	seen []*topology.Frame // those that went astray
}

// startLoad has connections, new ones, UDP and ping of each family ask until the test ends. It captures what leaves the
// server by eth0.
func startLoad(t *testing.T, n *topology.TwoNIC) *load {
	t.Helper()
	l := &load{Load: traffic.NewLoad(t), t: t, n: n, eth0: wire.Capture(t, n.Server.Eth0.Peer())}
	for _, f := range n.Families() {
		to := netip.AddrPortFrom(n.Server.Eth1.Address(f), traffic.EchoPort)
		for range busy / len(n.Families()) {
			l.Start(&traffic.Asker{Kind: traffic.TCP, From: n.Client, To: to, Pace: busyPace})
		}
		l.Start(&traffic.Asker{Kind: traffic.TCP, From: n.Client, To: to, Pace: newPace, Fresh: true},
			&traffic.Asker{Kind: traffic.UDP, From: n.Client, To: to, Pace: datagramPace},
			&traffic.Asker{Kind: traffic.Ping, From: n.Client, To: to, Pace: datagramPace})
	}
	l.goesOn()
	return l
}

// goesOn wants everybody to be answered from now on.
func (l *load) goesOn() {
	l.t.Helper()
	l.Await(l.Askers, 1, func() error {
		if failures := l.Failures(); len(failures) > 0 {
			l.t.Fatal(strings.Join(failures, "\n"))
		}
		return nil
	})
}

// strays are the answers that have left by eth0 since those that were forgotten.
func (l *load) strays() []*topology.Frame {
	answers := topology.OneOf(topology.TCP, topology.UDP, topology.EchoReply)
	addresses := topology.OneOf(topology.From(l.n.Server.Eth1.Address(topology.IPv4)), topology.From(l.n.Server.Eth1.Address(topology.IPv6)))
	l.seen = append(l.seen, l.eth0.Take(topology.All(answers, addresses, topology.Going(topology.Received)))...)
	return l.seen
}

// forget returns the strays so far, and has them count no more.
func (l *load) forget() []*topology.Frame {
	forgotten := l.strays()
	l.seen = nil
	return forgotten
}

// wantAstray shows that what is tested makes a difference: without it answers of each of these kinds leave by eth0, of
// both families.
func (l *load) wantAstray(kinds ...topology.Filter) {
	l.t.Helper()
	begun, missing := len(l.strays()), []topology.Filter(nil)
	for _, kind := range kinds {
		for _, f := range l.n.Families() {
			missing = append(missing, topology.All(kind, topology.From(l.n.Server.Eth1.Address(f))))
		}
	}
	await.Eventually(l.t, "replies leave by eth0", func() error {
		strays := l.strays()[begun:]
		missing = slices.DeleteFunc(missing, func(match topology.Filter) bool { return slices.ContainsFunc(strays, match) })
		if len(missing) > 0 {
			return fmt.Errorf("of %d kinds none does", len(missing))
		}
		return nil
	})
}

// report ends the load and wants it whole, and returns the frames that went astray:
// "100 kills, 0 broken, 0 stray frames".
func (l *load) report(what string, args ...any) (strays []*topology.Frame) {
	l.t.Helper()
	l.End()
	strays = l.strays()
	failures := l.Failures()
	l.t.Logf("%s under %d connections and new ones, %d in all, and UDP and ping, %d answers: %d broken, %d stray frames",
		fmt.Sprintf(what, args...), busy, l.Connections(), l.Answers(), len(failures), len(strays))
	for _, failure := range failures {
		l.t.Error(errors.New(failure))
	}
	return strays
}

// wantFew wants that no more frames went astray than so many each time that flow tables took the place of others.
// What comes in while the programs of the interfaces are replaced, one after the other, is in tables that not all of
// them look at: its answer goes as routed.
func wantFew(t *testing.T, strays []*topology.Frame, each, exchanges int) {
	t.Helper()
	if len(strays) > each*exchanges {
		t.Errorf("more than %d frames at each of %d exchanges of the tables: by eth0 left %s", each, exchanges, wire.Describe(strays))
	}
}

// wantNone wants that nothing went astray.
func wantNone(t *testing.T, strays []*topology.Frame) {
	t.Helper()
	if len(strays) > 0 {
		t.Errorf("by eth0 left %s", wire.Describe(strays))
	}
}
