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
	forgotten      int // frames that are not looked at any more

	mu     sync.Mutex
	broken []error // one for each connection
}

// startLoad opens the connections and lets them and new ones ask until the test
// ends. It captures what leaves the server by eth0.
func startLoad(t *testing.T, n *topology.TwoNIC) *load {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	l := &load{t: t, n: n, stop: stop, eth0: harness.Capture(t, n.Server.Eth0.Peer())}
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
	return l
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

// errors returns why connections are broken, nil if none is.
func (l *load) errors() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return errors.Join(l.broken...)
}

// goesOn wants answers and new connections from now on.
func (l *load) goesOn() {
	l.t.Helper()
	answers, begun := l.answers.Load(), l.begun.Load()
	harness.Eventually(l.t, "the connections go on", func() error {
		if err := l.errors(); err != nil {
			l.t.Fatal(err)
		}
		if l.answers.Load() < answers+busy || l.begun.Load() == begun {
			return fmt.Errorf("%d answers, %d new connections", l.answers.Load()-answers, l.begun.Load()-begun)
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

// strays returns the frames of the connections that have left by eth0 so far.
func (l *load) strays() []*topology.Frame {
	fromEth1 := func(f *topology.Frame) bool {
		for _, family := range l.n.Families() {
			if f.Source == l.n.Server.Eth1.Address(family) {
				return true
			}
		}
		return false
	}
	return l.eth0.Frames(topology.All(topology.TCP, fromEth1, topology.Going(topology.Received)))[l.forgotten:]
}

// forget has strays leave out what went astray so far.
func (l *load) forget() { l.forgotten += len(l.strays()) }

// wantAstray shows that what is tested makes a difference: without it replies leave
// by eth0.
func (l *load) wantAstray() {
	l.t.Helper()
	before := len(l.strays())
	harness.Eventually(l.t, "replies leave by eth0", func() error {
		if len(l.strays()) == before {
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
	l.t.Logf("%s under %d connections and %d new ones, %d answers: %d broken, %d stray frames",
		fmt.Sprintf(what, args...), busy, l.begun.Load(), l.answers.Load(), len(l.broken), len(strays))
	for _, err := range l.broken {
		l.t.Error(err)
	}
	return strays
}

// wantNone wants that nothing went astray.
func wantNone(t *testing.T, strays []*topology.Frame) {
	t.Helper()
	if len(strays) > 0 {
		t.Errorf("by eth0 left %s", harness.Describe(strays))
	}
}
