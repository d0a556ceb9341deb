// SPDX-License-Identifier: Apache-2.0

package restarts

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"replypath/test/harness"
	"replypath/test/topology"
)

const (
	// busy is how many connections are open all the time, half of each family.
	busy = 100
	// busyPace is how often each of them asks, newPace how often a new one begins.
	busyPace = 200 * time.Millisecond
	newPace  = 40 * time.Millisecond
	// datagramPace is how often each conversation without a connection asks.
	datagramPace = 10 * time.Millisecond
)

// load is what the client asks of the server's eth1, without end.
type load struct {
	t       *testing.T
	n       *topology.TwoNIC
	eth0    *topology.Capture
	stop    context.CancelFunc
	running sync.WaitGroup

	answers, begun atomic.Int64
	conns          []net.Conn
	conversations  []*conversation
	// underway is held by every question that is a datagram until its answer comes.
	underway  sync.RWMutex
	forgotten map[*topology.Frame]bool // those that are not looked at any more

	mu     sync.Mutex
	broken []error // one for each connection, and for each conversation
}

// conversation is one without a connection: nothing of it is sent again, so that
// whatever is lost shows.
type conversation struct {
	*harness.Conversation
	answers atomic.Int64
}

// startLoad opens the connections and lets them, new ones, and a conversation by UDP and
// one by ping of each family ask until the test ends. It captures what leaves the server
// by eth0.
func startLoad(t *testing.T, n *topology.TwoNIC) *load {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	l := &load{t: t, n: n, stop: stop, eth0: harness.Capture(t, n.Server.Eth0.Peer()), forgotten: make(map[*topology.Frame]bool)}
	l.prepareConversations()
	t.Cleanup(l.end)
	for i := range busy {
		conn := harness.Must1[net.Conn](t)(l.dial(ctx, n.Families()[i%len(n.Families())]))
		l.conns = append(l.conns, conn)
		l.running.Go(func() {
			defer conn.Close()
			l.every(ctx, busyPace, func() error { return l.ask(conn) })
		})
	}
	for _, f := range n.Families() {
		l.running.Go(func() { l.every(ctx, newPace, func() error { return l.askOnce(f) }) })
	}
	for _, c := range l.conversations {
		l.running.Go(func() { l.every(ctx, datagramPace, func() error { return l.askDatagram(c) }) })
	}
	return l
}

// prepareConversations makes those without a connection, which are closed after the load
// has ended.
func (l *load) prepareConversations() {
	l.t.Helper()
	for _, f := range l.n.Families() {
		for _, kind := range []harness.Kind{harness.UDP, harness.Ping} {
			c := harness.NewConversation(l.t, kind, l.n.ClientEth0, l.n.Server.Eth1.Address(f))
			l.conversations = append(l.conversations, &conversation{Conversation: c})
		}
	}
}

// end lets every question have its answer.
func (l *load) end() {
	l.stop()
	l.running.Wait()
}

// every calls ask again and again, until the load ends or there is an error.
func (l *load) every(ctx context.Context, pace time.Duration, ask func() error) {
	tick := time.NewTicker(pace)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if err := ask(); err != nil {
			l.mu.Lock()
			l.broken = append(l.broken, err)
			l.mu.Unlock()
			return
		}
	}
}

func (l *load) dial(ctx context.Context, f topology.Family) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, harness.AnswerTime)
	defer cancel()
	server := netip.AddrPortFrom(l.n.Server.Eth1.Address(f), harness.EchoPort)
	return l.n.Client.Dial(ctx, "tcp", server.String())
}

func (l *load) ask(conn net.Conn) error {
	question := []byte("how long is the coast of Britain?")
	if err := conn.SetDeadline(time.Now().Add(harness.AnswerTime)); err != nil {
		return err
	}
	if _, err := conn.Write(question); err != nil {
		return err
	}
	if _, err := io.ReadFull(conn, question); err != nil {
		return err
	}
	l.answers.Add(1)
	return nil
}

// askOnce opens a connection, asks by it, and closes it.
func (l *load) askOnce(f topology.Family) error {
	conn, err := l.dial(context.Background(), f)
	if err != nil {
		return fmt.Errorf("new connection: %w", err)
	}
	defer conn.Close()
	l.begun.Add(1)
	return l.ask(conn)
}

// askDatagram asks once: a datagram that is lost breaks its conversation.
func (l *load) askDatagram(c *conversation) error {
	l.underway.RLock()
	defer l.underway.RUnlock()
	ctx, cancel := context.WithTimeout(context.Background(), harness.AnswerTime)
	defer cancel()
	if err := c.Ask(ctx); err != nil {
		return fmt.Errorf("after %d answers: %w", c.answers.Load(), err)
	}
	c.answers.Add(1)
	return nil
}

// withoutDatagrams does what may cost a datagram while none is under way. The connections
// go on.
func (l *load) withoutDatagrams(do func()) {
	l.underway.Lock()
	defer l.underway.Unlock()
	do()
}

// errors returns why connections are broken, nil if none is.
func (l *load) errors() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return errors.Join(l.broken...)
}

// goesOn wants answers and new connections from now on, and of every conversation the
// answer to a question that is asked from now on.
func (l *load) goesOn() {
	l.t.Helper()
	answers, begun := l.answers.Load(), l.begun.Load()
	wanted := make(map[*conversation]int64)
	for _, c := range l.conversations {
		wanted[c] = c.answers.Load() + 2 // the first may be to a question of before
	}
	harness.Eventually(l.t, "the connections go on", func() error {
		if err := l.errors(); err != nil {
			l.t.Fatal(err)
		}
		if l.answers.Load() < answers+busy || l.begun.Load() == begun {
			return fmt.Errorf("%d answers, %d new connections", l.answers.Load()-answers, l.begun.Load()-begun)
		}
		for c, n := range wanted {
			if c.answers.Load() < n {
				return fmt.Errorf("%s: %d answers, not %d", c, c.answers.Load(), n)
			}
		}
		return nil
	})
}

// allGoOn wants so many answers that every connection has had some.
func (l *load) allGoOn() {
	l.t.Helper()
	for range 3 {
		l.goesOn()
	}
}

// strays returns the answers that have left by eth0 so far: TCP segments, datagrams and
// answers to pings from an address of eth1.
func (l *load) strays() []*topology.Frame {
	fromEth1 := func(f *topology.Frame) bool {
		for _, family := range l.n.Families() {
			if f.Source == l.n.Server.Eth1.Address(family) {
				return true
			}
		}
		return false
	}
	answers := topology.OneOf(topology.TCP, topology.UDP, topology.EchoReply)
	known := func(f *topology.Frame) bool { return l.forgotten[f] }
	return l.eth0.Frames(topology.All(answers, fromEth1, topology.Going(topology.Received), topology.Not(known)))
}

// forget has strays leave out what went astray so far and matches.
func (l *load) forget(match topology.Filter) {
	for _, f := range l.strays() {
		if match(f) {
			l.forgotten[f] = true
		}
	}
}

// wantAstray shows that what is tested makes a difference: without it replies leave
// by eth0, those of the connections and those of every conversation.
func (l *load) wantAstray() {
	l.t.Helper()
	l.wantStray("tcp", topology.TCP)
	l.wantDatagramsAstray()
}

// wantDatagramsAstray is wantAstray for the conversations alone.
func (l *load) wantDatagramsAstray() {
	l.t.Helper()
	for _, c := range l.conversations {
		l.wantStray(c.String(), c.Answers())
	}
}

// wantStray wants one more reply that matches to leave by eth0.
func (l *load) wantStray(what string, match topology.Filter) {
	l.t.Helper()
	count := func() (n int) {
		for _, f := range l.strays() {
			if match(f) {
				n++
			}
		}
		return n
	}
	before := count()
	harness.Eventually(l.t, what+": replies leave by eth0", func() error {
		if err := l.errors(); err != nil {
			l.t.Fatal(err)
		}
		if count() == before {
			return errors.New("none does")
		}
		return nil
	})
}

// report ends the load and wants it whole, and returns the frames that went astray:
// "100 kills, 0 broken, 0 stray frames".
func (l *load) report(what string, args ...any) (strays []*topology.Frame) {
	l.t.Helper()
	l.end()
	strays = l.strays()
	var datagrams int64
	for _, c := range l.conversations {
		datagrams += c.answers.Load()
	}
	l.t.Logf("%s under %d connections and %d new ones, %d answers, and %d conversations by UDP and ping, %d answers: %d broken, %d stray frames",
		fmt.Sprintf(what, args...), busy, l.begun.Load(), l.answers.Load(), len(l.conversations), datagrams, len(l.broken), len(strays))
	for _, err := range l.broken {
		l.t.Error(err)
	}
	return strays
}

// wantFew wants that no more frames went astray than so many each time that flow tables took the place of others.
// What comes in while the programs of the interfaces are replaced, one after the other, is in tables that not all of
// them look at: its answer goes as routed.
func wantFew(t *testing.T, strays []*topology.Frame, each, exchanges int) {
	t.Helper()
	if len(strays) > each*exchanges {
		t.Errorf("more than %d frames at each of %d exchanges of the tables: by eth0 left %s", each, exchanges, harness.Describe(strays))
	}
}

// wantNone wants that nothing went astray.
func wantNone(t *testing.T, strays []*topology.Frame) {
	t.Helper()
	if len(strays) > 0 {
		t.Errorf("by eth0 left %s", harness.Describe(strays))
	}
}
