// SPDX-License-Identifier: Apache-2.0

package soak

import (
	"bytes"
	"context"
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
	// pace is how often a conversation asks.
	pace = 20 * time.Millisecond
	// patience is how long a ping may take before it is sent again, which has to help
	// within AnswerTime: a gateway that is replaced takes some along.
	patience = time.Second
	// visitors are how many open one connection after the other.
	visitors = 4
	// bulk is what a visitor asks for, in bytes.
	bulk = 20_000
)

// load is everything that asks and is asked.
type load struct {
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup

	connections, questions atomic.Int64

	// askers are those that ask all the time.
	askers []*asker

	mu       sync.Mutex
	failures []string
	absences []absence
	repeated int
	// explained are those that were repeated and an absence explains, by its event.
	explained map[string]int
}

// asker is a conversation, or a visitor.
type asker struct {
	what string
	to   netip.Addr
	// own: the server has begun it.
	own      bool
	answered atomic.Int64
	last     atomic.Int64 // when, in Unix nanoseconds
}

func (a *asker) wasAnswered() {
	a.last.Store(time.Now().UnixNano())
	a.answered.Add(1)
}

// newLoad begins conversations of every kind: by eth1 and by eth0, and such as the
// server begins.
func newLoad(t *testing.T, n *topology.TwoNIC) *load {
	t.Helper()
	l := &load{explained: make(map[string]int)}
	l.ctx, l.cancel = context.WithCancel(context.Background())
	t.Cleanup(func() { l.stop() })
	for _, f := range n.Families() {
		harness.Serve(t, n.Server.Host, n.Server.Eth0.Address(f))
		harness.Serve(t, n.Client, n.ClientEth0.Address(f))
		for _, nic := range []*topology.Interface{n.Server.Eth0, n.Server.Eth1} {
			l.goAsk(n.Client, nic.Address(f), false)
			l.start(&asker{what: "ping", to: nic.Address(f)}, func(a *asker) { l.ping(n.Client, a) })
		}
		l.goAsk(n.Server.Host, n.ClientEth0.Address(f), true)
		for range visitors / len(n.Families()) {
			l.start(&asker{what: "visit", to: n.Server.Eth1.Address(f)}, func(a *asker) { l.visit(n.Client, a) })
		}
	}
	return l
}

// goAsk begins a conversation of each kind that has sockets.
func (l *load) goAsk(from *topology.Host, to netip.Addr, own bool) {
	l.start(&asker{what: "tcp", to: to, own: own}, func(a *asker) { l.askStreams(from, a) })
	l.start(&asker{what: "udp", to: to, own: own}, func(a *asker) { l.askDatagrams(from, a) })
}

func (l *load) start(a *asker, run func(*asker)) {
	l.askers = append(l.askers, a)
	l.wg.Go(func() { run(a) })
}

// port is where it asks.
func (a *asker) port() string { return netip.AddrPortFrom(a.to, harness.EchoPort).String() }

// stop ends the load and returns what went wrong.
func (l *load) stop() []string {
	l.cancel()
	l.wg.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.failures
}

// fail notes what is not to happen, unless the load is about to end.
func (l *load) fail(a *asker, err error) {
	if l.ctx.Err() != nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.failures = append(l.failures, fmt.Sprintf("%s %s to %s: %v", time.Now().Format(time.StampMilli), a.what, a.port(), err))
}

// repeatedSoFar is without what an event explains.
func (l *load) repeatedSoFar() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.repeated
}

// wait returns false when the load is to end.
func (l *load) wait() bool {
	select {
	case <-l.ctx.Done():
		return false
	case <-time.After(pace):
		return true
	}
}

// askStreams asks by one TCP connection, or by the next one where that breaks, which
// is a failure.
func (l *load) askStreams(from *topology.Host, a *asker) {
	for l.ctx.Err() == nil {
		if err := l.stream(from, a); err != nil {
			l.fail(a, err)
			l.wait()
		}
	}
}

func (l *load) stream(from *topology.Host, a *asker) error {
	conn, err := l.dial(from, "tcp", a.port())
	if err != nil {
		return err
	}
	defer conn.Close()
	for l.wait() {
		if err := l.exchange(conn, []byte("question")); err != nil {
			return err
		}
		a.wasAnswered()
	}
	return nil
}

// visit opens connections, asks and closes them.
func (l *load) visit(from *topology.Host, a *asker) {
	for l.wait() {
		if err := l.visitOnce(from, a.port()); err != nil {
			l.fail(a, err)
			continue
		}
		a.wasAnswered()
	}
}

func (l *load) visitOnce(from *topology.Host, to string) error {
	conn, err := l.dial(from, "tcp", to)
	if err != nil {
		return err
	}
	defer conn.Close()
	for _, question := range [][]byte{[]byte("question"), make([]byte, bulk)} {
		if err := l.exchange(conn, question); err != nil {
			return err
		}
	}
	return end(conn)
}

// end closes the client's direction and returns when the server has closed its own:
// what it had still to send would have no way once the interface is gone.
func end(conn net.Conn) error {
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		return err
	}
	rest, err := io.ReadAll(conn)
	if err == nil && len(rest) > 0 {
		err = fmt.Errorf("%d bytes more than were asked for", len(rest))
	}
	return err
}

// dial opens a socket. What is under way when the load ends, ends by itself.
func (l *load) dial(from *topology.Host, network, to string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), harness.AnswerTime)
	defer cancel()
	conn, err := from.Dial(ctx, network, to)
	if err == nil && network == "tcp" {
		l.connections.Add(1)
	}
	return conn, err
}

// exchange asks by a stream, whose server echoes.
func (l *load) exchange(conn net.Conn, question []byte) error {
	if err := conn.SetDeadline(time.Now().Add(harness.AnswerTime)); err != nil {
		return err
	}
	if _, err := conn.Write(question); err != nil {
		return err
	}
	answer := make([]byte, len(question))
	if _, err := io.ReadFull(conn, answer); err != nil {
		return err
	}
	if !bytes.Equal(question, answer) {
		return fmt.Errorf("%d bytes came back altered", len(question))
	}
	l.questions.Add(1)
	return nil
}

// askDatagrams asks by one UDP socket.
func (l *load) askDatagrams(from *topology.Host, a *asker) {
	conn, err := l.dial(from, "udp", a.port())
	if err != nil {
		l.fail(a, err)
		return
	}
	defer conn.Close()
	for number := uint64(1); l.wait(); number++ {
		begun := time.Now()
		repeated, err := harness.AskDatagram(conn, number)
		l.repeat(a, begun, repeated)
		if err != nil {
			l.fail(a, err)
			continue
		}
		l.questions.Add(1)
		a.wasAnswered()
	}
}

// ping asks by echo requests.
func (l *load) ping(from *topology.Host, a *asker) {
	pinger, err := from.NewPinger(l.ctx, topology.Echo{To: a.to})
	if err != nil {
		l.fail(a, err)
		return
	}
	defer pinger.Close()
	for l.wait() {
		if err := l.pingOnce(pinger, a); err != nil {
			l.fail(a, err)
			continue
		}
		a.wasAnswered()
	}
}

func (l *load) pingOnce(pinger *topology.Pinger, a *asker) error {
	err, begun := error(nil), time.Now()
	for repeated := 0; time.Since(begun) < harness.AnswerTime && l.ctx.Err() == nil; repeated++ {
		ctx, cancel := context.WithTimeout(l.ctx, patience)
		_, err = pinger.Ping(ctx)
		cancel()
		if err == nil {
			l.repeat(a, begun, repeated)
			l.questions.Add(1)
			return nil
		}
	}
	return err
}
