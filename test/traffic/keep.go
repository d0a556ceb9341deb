// SPDX-License-Identifier: Apache-2.0

package traffic

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"replypath/test/await"
	"replypath/test/topology"
)

// pace is how often a question is asked: often enough that nothing goes wrong unseen, seldom enough to leave the
// processors to what is tested.
const pace = time.Millisecond

// Talk is a conversation that goes on in the background.
type Talk struct {
	t       testing.TB
	c       *Conversation
	stop    context.CancelFunc
	ended   chan struct{}
	again   time.Duration // after which a question is asked again; 0: never
	answers int
	pause   time.Duration
	err     error
}

// Keep asks a question every millisecond, or as often as there are answers, until Stop. Nobody else may use the
// conversation meanwhile.
func (c *Conversation) Keep(t testing.TB) *Talk {
	t.Helper()
	return c.prepare(t).start()
}

func (c *Conversation) prepare(t testing.TB) *Talk {
	return &Talk{t: t, c: c, ended: make(chan struct{})}
}

func (k *Talk) start() *Talk {
	ctx, stop := context.WithCancel(context.Background())
	k.stop = stop
	go k.run(ctx)
	k.t.Cleanup(func() {
		stop()
		<-k.ended
	})
	return k
}

// repeatedAfter is TCP's least retransmission timeout.
const repeatedAfter = 200 * time.Millisecond

// KeepThrough is Keep through a fault. A ping without an answer is repeated: where a link goes down, the kernel
// discards what another processor is about to send by its routes (dst_dev_put() in net/core/dst.c).
func (c *Conversation) KeepThrough(t testing.TB) *Talk {
	t.Helper()
	if c.Kind == Ping {
		return c.KeepRepeating(t)
	}
	return c.Keep(t)
}

// KeepRepeating is Keep of a datagram or ping that is repeated while it has no answer, or no route for a moment, as TCP repeats a
// segment.
func (c *Conversation) KeepRepeating(t testing.TB) *Talk {
	t.Helper()
	talk := c.prepare(t)
	talk.again = repeatedAfter
	return talk.start()
}

func (k *Talk) run(ctx context.Context) {
	defer close(k.ended)
	tick := time.NewTicker(pace)
	defer tick.Stop()
	for k.err == nil {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			asked := time.Now()
			k.err = k.askOnce()
			k.pause = max(k.pause, time.Since(asked))
			k.answers++
		}
	}
}

// askOnce lets a question that is on its way have its answer: the end of the conversation does not interrupt it.
func (k *Talk) askOnce() error {
	ctx, cancel := context.WithTimeout(context.Background(), await.AnswerTime)
	defer cancel()
	for k.again != 0 && ctx.Err() == nil {
		first, cancel := context.WithTimeout(ctx, k.again)
		err := k.c.Ask(first)
		if errors.Is(err, unix.ENETUNREACH) {
			<-first.Done()
			err = first.Err()
		}
		cancel()
		if !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, os.ErrDeadlineExceeded) {
			return err
		}
	}
	return k.c.Ask(ctx)
}

// Stop ends the conversation after its last answer and wants that every question was answered. It returns how many
// were.
func (k *Talk) Stop() int {
	k.t.Helper()
	k.stop()
	<-k.ended
	if k.err != nil {
		k.t.Errorf("after %d answers: %v", k.answers-1, k.err)
	}
	return k.answers
}

// Pause returns the longest time that an answer took. The conversation has to be stopped.
func (k *Talk) Pause() time.Duration { return k.pause }

// Push is a connection in which the server speaks and the client listens.
type Push struct {
	Client, Server net.Conn
	// Segments are all that the server sends.
	Segments topology.Filter

	t *testing.T
}

// NewPush connects the client to an address that is, or is translated into, the server's own.
func NewPush(t *testing.T, client, server *topology.Host, asked, own netip.Addr) *Push {
	t.Helper()
	ctx := await.Within(t, await.AnswerTime)
	l := await.Must1[net.Listener](t)(server.Listen(ctx, "tcp", netip.AddrPortFrom(own, 0).String()))
	t.Cleanup(func() { l.Close() })
	port := netip.MustParseAddrPort(l.Addr().String()).Port()
	p := &Push{t: t, Segments: topology.All(topology.TCP, topology.From(own), topology.FromPort(port))}
	p.Client = await.Must1[net.Conn](t)(client.Dial(ctx, "tcp", netip.AddrPortFrom(asked, port).String()))
	p.Server = await.Must1[net.Conn](t)(l.Accept())
	t.Cleanup(func() {
		p.Client.Close()
		p.Server.Close()
	})
	return p
}

// Send has the server send so many bytes, which have to fit its buffer.
func (p *Push) Send(size int) {
	p.t.Helper()
	_, err := p.Server.Write(make([]byte, size))
	await.Must(p.t, err)
}

// Speak sends a short message and returns when the client has it.
func (p *Push) Speak() {
	p.t.Helper()
	const size = 4
	p.Send(size)
	_, err := io.CopyN(io.Discard, p.Client, size)
	await.Must(p.t, err)
}
