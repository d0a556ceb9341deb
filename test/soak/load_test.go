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

	connections, questions, repeated atomic.Int64

	mu       sync.Mutex
	failures []string
}

// newLoad begins conversations of every kind: by eth1 and by eth0, and such as the
// server begins.
func newLoad(t *testing.T, n *topology.TwoNIC) *load {
	t.Helper()
	l := new(load)
	l.ctx, l.cancel = context.WithCancel(context.Background())
	t.Cleanup(func() { l.stop() })
	for _, f := range n.Families() {
		harness.Serve(t, n.Server.Host, n.Server.Eth0.Address(f))
		harness.Serve(t, n.Client, n.ClientEth0.Address(f))
		for _, nic := range []*topology.Interface{n.Server.Eth0, n.Server.Eth1} {
			l.goAsk(n.Client, nic.Address(f))
			l.start(func() { l.ping(n.Client, nic.Address(f)) })
		}
		l.goAsk(n.Server.Host, n.ClientEth0.Address(f))
		for range visitors / len(n.Families()) {
			l.start(func() { l.visit(n.Client, n.Server.Eth1.Address(f)) })
		}
	}
	return l
}

// goAsk begins a conversation of each kind that has sockets.
func (l *load) goAsk(from *topology.Host, address netip.Addr) {
	to := netip.AddrPortFrom(address, harness.EchoPort).String()
	l.start(func() { l.askStreams(from, to) })
	l.start(func() { l.askDatagrams(from, to) })
}

func (l *load) start(run func()) { l.wg.Go(run) }

// stop ends the load and returns what went wrong.
func (l *load) stop() []string {
	l.cancel()
	l.wg.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.failures
}

// fail notes what is not to happen, unless the load is about to end.
func (l *load) fail(what string, err error) {
	if l.ctx.Err() != nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.failures = append(l.failures, fmt.Sprintf("%s %s: %v", time.Now().Format(time.StampMilli), what, err))
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
func (l *load) askStreams(from *topology.Host, to string) {
	for l.ctx.Err() == nil {
		if err := l.stream(from, to); err != nil {
			l.fail("tcp to "+to, err)
			l.wait()
		}
	}
}

func (l *load) stream(from *topology.Host, to string) error {
	conn, err := l.dial(from, "tcp", to)
	if err != nil {
		return err
	}
	defer conn.Close()
	for l.wait() {
		if err := l.exchange(conn, []byte("question")); err != nil {
			return err
		}
	}
	return nil
}

// visit opens connections, asks and closes them.
func (l *load) visit(from *topology.Host, address netip.Addr) {
	to := netip.AddrPortFrom(address, harness.EchoPort).String()
	for l.wait() {
		if err := l.visitOnce(from, to); err != nil {
			l.fail("visit to "+to, err)
		}
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
func (l *load) askDatagrams(from *topology.Host, to string) {
	conn, err := l.dial(from, "udp", to)
	if err != nil {
		l.fail("udp to "+to, err)
		return
	}
	defer conn.Close()
	for number := uint64(1); l.wait(); number++ {
		repeated, err := harness.AskDatagram(conn, number)
		l.repeated.Add(int64(repeated))
		if err != nil {
			l.fail("udp to "+to, err)
			continue
		}
		l.questions.Add(1)
	}
}

// ping asks by echo requests.
func (l *load) ping(from *topology.Host, to netip.Addr) {
	pinger, err := from.NewPinger(l.ctx, topology.Echo{To: to})
	if err != nil {
		l.fail("ping", err)
		return
	}
	defer pinger.Close()
	for l.wait() {
		if err := l.pingOnce(pinger); err != nil {
			l.fail("ping", err)
		}
	}
}

func (l *load) pingOnce(pinger *topology.Pinger) error {
	err := error(nil)
	for begun := time.Now(); time.Since(begun) < harness.AnswerTime && l.ctx.Err() == nil; l.repeated.Add(1) {
		ctx, cancel := context.WithTimeout(l.ctx, patience)
		_, err = pinger.Ping(ctx)
		cancel()
		if err == nil {
			l.questions.Add(1)
			return nil
		}
	}
	return err
}
