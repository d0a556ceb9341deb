// SPDX-License-Identifier: Apache-2.0

package traffic

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"replypath/test/await"
	"replypath/test/topology"
)

// Load is askers that ask echo servers without end.
type Load struct {
	// Askers are all that have been started.
	Askers []*Asker
	// Again is after how long a datagram or a ping without an answer is asked again.
	Again time.Duration
	// Repeated is told how often a question was asked again. Without it that is a failure, as nothing may be lost.
	Repeated func(a *Asker, begun time.Time, times int)

	t       testing.TB
	ctx     context.Context
	stop    context.CancelFunc
	running sync.WaitGroup

	connections atomic.Int64
	mu          sync.Mutex
	failures    []string
}

// NewLoad returns one without askers, which ends with the test.
func NewLoad(t testing.TB) *Load {
	l := &Load{t: t, Again: await.AnswerTime}
	l.ctx, l.stop = context.WithCancel(context.Background())
	t.Cleanup(l.End)
	return l
}

// Asker is one who asks a server again and again: by one socket, or by one new connection after the other.
type Asker struct {
	Kind  Kind
	From  *topology.Host
	To    netip.AddrPort // a ping has no port
	Pace  time.Duration  // how often it asks
	Fresh bool           // each question has a connection of its own
	Bulk  int            // bytes that it asks for with a new connection besides

	answered, last atomic.Int64
}

func (a *Asker) String() string {
	if a.Fresh {
		return fmt.Sprintf("new %s to %s", a.Kind, a.To)
	}
	return fmt.Sprintf("%s to %s", a.Kind, a.To)
}

// Answered is how often it was answered.
func (a *Asker) Answered() int64 { return a.answered.Load() }

// Silence is for how long it has had no answer.
func (a *Asker) Silence() time.Duration { return time.Since(time.Unix(0, a.last.Load())) }

// Start has askers ask from now on.
func (l *Load) Start(askers ...*Asker) {
	for _, a := range askers {
		a.last.Store(time.Now().UnixNano())
		l.Askers = append(l.Askers, a)
		l.running.Go(func() { l.run(a) })
	}
}

// End lets every question have its answer, and ends the load.
func (l *Load) End() {
	l.stop()
	l.running.Wait()
}

// Failures are all that has gone wrong so far.
func (l *Load) Failures() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]string{}, l.failures...)
}

// Connections is how many have been opened so far, and Answers how many questions were answered.
func (l *Load) Connections() int64 { return l.connections.Load() }

// Answers adds up those of all askers.
func (l *Load) Answers() (sum int64) {
	for _, a := range l.Askers {
		sum += a.Answered()
	}
	return sum
}

func (l *Load) fail(a *Asker, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.failures = append(l.failures, fmt.Sprintf("%s %s, after %d answers: %v", time.Now().Format(time.StampMilli), a, a.Answered(), err))
}

// Await returns when each of some askers has been answered so many times to questions that it has asked since. It calls
// look again and again meanwhile, whose error is a reason to wait on.
func (l *Load) Await(askers []*Asker, times int64, look func() error) {
	l.t.Helper()
	enough := make([]int64, len(askers))
	for i, a := range askers {
		enough[i] = a.Answered() + 1 + times // one may be under way
	}
	for i, a := range askers {
		await.Eventually(l.t, a.String()+" goes on", func() error {
			err := look()
			if missing := enough[i] - a.Answered(); missing > 0 {
				err = errors.Join(err, fmt.Errorf("%d answers are missing", missing))
			}
			return err
		})
	}
}

// run asks until the load ends. What goes wrong is noted, and the next question has another socket.
func (l *Load) run(a *Asker) {
	tick := time.NewTicker(a.Pace)
	defer tick.Stop()
	s := socket(nil)
	for number := uint64(1); ; number++ {
		select {
		case <-l.ctx.Done():
			if s != nil {
				s.Close()
			}
			return
		case <-tick.C:
		}
		begun, repeated, err := time.Now(), 0, error(nil)
		if s == nil && !a.Fresh {
			s, err = l.open(a)
		}
		switch {
		case err != nil:
		case a.Fresh:
			err = l.Visit(a)
		default:
			repeated, err = s.ask(number, l.Again)
		}
		switch {
		case repeated > 0 && l.Repeated != nil:
			l.Repeated(a, begun, repeated)
		case repeated > 0:
			err = errors.Join(err, fmt.Errorf("it was asked %d times more", repeated))
		}
		if err == nil {
			a.last.Store(time.Now().UnixNano())
			a.answered.Add(1)
			continue
		}
		l.fail(a, err)
		if s != nil {
			s.Close()
			s = nil
		}
	}
}

// socket is what an asker keeps open.
type socket interface {
	io.Closer
	// ask asks a question, another number each time, again where it is not answered, and returns how often.
	ask(number uint64, again time.Duration) (repeated int, err error)
}

type (
	stream    struct{ net.Conn }
	datagrams struct{ net.Conn }
	pings     struct{ *topology.Pinger }
)

func (l *Load) open(a *Asker) (socket, error) {
	if a.Kind == Ping {
		// It goes on answering what is under way when the load ends.
		pinger, err := a.From.NewPinger(context.Background(), topology.Echo{To: a.To.Addr()})
		if err != nil {
			return nil, err
		}
		return pings{pinger}, nil
	}
	conn, err := l.Dial(a.From, string(a.Kind), a.To)
	switch {
	case err != nil:
		return nil, err
	case a.Kind == UDP:
		return datagrams{conn}, nil
	default:
		return stream{conn}, nil
	}
}

// Dial opens a socket, and counts it where it is a connection.
func (l *Load) Dial(from *topology.Host, network string, to netip.AddrPort) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), await.AnswerTime)
	defer cancel()
	conn, err := from.Dial(ctx, network, to.String())
	if err == nil && network == "tcp" {
		l.connections.Add(1)
	}
	return conn, err
}

// Visit opens a connection, asks by it, and closes it when the server has: what that had still to send might have no way
// afterwards.
func (l *Load) Visit(a *Asker) error {
	conn, err := l.Dial(a.From, "tcp", a.To)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := AskStream(conn, 8); err != nil {
		return err
	}
	if err := AskStream(conn, a.Bulk); err != nil {
		return err
	}
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		return err
	}
	rest, err := io.ReadAll(conn)
	if err == nil && len(rest) > 0 {
		err = fmt.Errorf("%d bytes more than were asked for", len(rest))
	}
	return err
}

// AskStream asks an echo server for so many bytes by a connection.
func AskStream(conn net.Conn, size int) error {
	if err := conn.SetDeadline(time.Now().Add(await.AnswerTime)); err != nil {
		return err
	}
	question, answer := bytes.Repeat([]byte("question"), size/8+1)[:size], make([]byte, size)
	if _, err := conn.Write(question); err != nil {
		return err
	}
	if _, err := io.ReadFull(conn, answer); err != nil {
		return err
	}
	if !bytes.Equal(question, answer) {
		return fmt.Errorf("%d bytes came back altered", size)
	}
	return nil
}

func (s stream) ask(uint64, time.Duration) (int, error) { return 0, AskStream(s, 32) }

func (s datagrams) ask(number uint64, again time.Duration) (int, error) {
	return askDatagram(s, number, again)
}

func (s pings) ask(_ uint64, again time.Duration) (repeated int, err error) {
	for begun := time.Now(); ; repeated++ {
		ctx, cancel := context.WithTimeout(context.Background(), again)
		_, err = s.Ping(ctx)
		cancel()
		if err == nil || time.Since(begun) >= await.AnswerTime {
			return repeated, err
		}
	}
}

// askAgain is how long the answer to a datagram may take before it is asked again: floods and changes of the network
// cost some.
const askAgain = time.Second

// AskDatagram asks an echo server by a connected UDP socket until the answer to this question comes, or AnswerTime is
// over. Every question of a socket needs another number. It returns how often the question was repeated.
func AskDatagram(conn net.Conn, number uint64) (repeated int, err error) {
	return askDatagram(conn, number, askAgain)
}

func askDatagram(conn net.Conn, number uint64, again time.Duration) (repeated int, err error) {
	question, answer := binary.BigEndian.AppendUint64(nil, number), make([]byte, 8)
	for begun := time.Now(); time.Since(begun) < await.AnswerTime; repeated++ {
		deadline := time.Now().Add(again)
		if err = conn.SetDeadline(deadline); err != nil {
			return repeated, err
		}
		_, err = conn.Write(question)
		for err == nil && !bytes.Equal(question, answer) {
			_, err = conn.Read(answer)
		}
		if err == nil {
			return repeated, nil
		}
		time.Sleep(min(time.Until(deadline), await.Poll)) // after an ICMP error about an earlier question
	}
	return repeated, err
}
