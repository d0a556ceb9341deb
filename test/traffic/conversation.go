// SPDX-License-Identifier: Apache-2.0

// Package traffic asks questions across a network, and answers them.
package traffic

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"replypath/test/await"
	"replypath/test/topology"
)

// Kind is how a question is asked.
type Kind string

// The kinds.
const (
	Ping Kind = "ping"
	TCP  Kind = "tcp"
	UDP  Kind = "udp"
)

// Kinds lists them all.
var Kinds = []Kind{Ping, TCP, UDP}

// Conversation is one flow: a client asks an echo server again and again from one port, which nobody else uses in the
// test. It is not safe for concurrent use.
type Conversation struct {
	Kind Kind
	// Peer asks Self. A ping has its identifier for the peer's port and none for the server's, as the flow table shows
	// it.
	Peer, Self netip.AddrPort

	client  *topology.Interface
	conn    net.Conn
	pinger  *topology.Pinger
	figures *figures
}

// ports are below those that the kernel chooses from.
var ports atomic.Uint32

const firstPort = 20000

// NewConversation prepares a conversation between the client's address on an interface and the server's address.
// Nothing is sent before the first question.
func NewConversation(t testing.TB, kind Kind, client *topology.Interface, server netip.Addr) *Conversation {
	t.Helper()
	c := &Conversation{Kind: kind, client: client, figures: FiguresOf(t)}
	from := client.Address(topology.FamilyOf(server))
	if kind == Ping {
		p, err := client.Host.NewPinger(t.Context(), topology.Echo{To: server, From: from})
		await.Must(t, err)
		c.pinger = p
		c.Peer, c.Self = netip.AddrPortFrom(from, p.ID()), netip.AddrPortFrom(server, 0)
	} else {
		c.Peer = netip.AddrPortFrom(from, uint16(firstPort+ports.Add(1)))
		c.Self = netip.AddrPortFrom(server, EchoPort)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// String names the conversation in a message.
func (c *Conversation) String() string {
	return fmt.Sprintf("%s %s > %s", c.Kind, c.Peer, c.Self)
}

// Connect opens the socket, which for TCP sends the handshake. Ask does it where it has not been done.
func (c *Conversation) Connect(ctx context.Context) error {
	if c.Kind == Ping || c.conn != nil {
		return nil
	}
	conn, err := c.client.Host.Dial(ctx, string(c.Kind), c.Self.String(), topology.FromAddress(c.Peer))
	if err != nil {
		return fmt.Errorf("%s: %w", c, err)
	}
	c.conn = conn
	return nil
}

// Ask asks one question and waits for its answer until ctx ends.
func (c *Conversation) Ask(ctx context.Context) error {
	return c.AskFor(ctx, 32)
}

// AskFor asks for so many bytes, which for UDP and pings have to fit a datagram.
func (c *Conversation) AskFor(ctx context.Context, size int) error {
	err := c.askFor(ctx, size)
	c.figures.asked.Add(1)
	if err == nil {
		c.figures.answered.Add(1)
	}
	return err
}

func (c *Conversation) askFor(ctx context.Context, size int) error {
	if c.Kind == Ping {
		_, err := c.pinger.PingFor(ctx, size)
		return err
	}
	if err := c.Connect(ctx); err != nil {
		return err
	}
	if err := c.conn.SetDeadline(time.Time{}); err != nil { // of an earlier question without an answer
		return fmt.Errorf("%s: %w", c, err)
	}
	stop := context.AfterFunc(ctx, func() { _ = c.conn.SetDeadline(time.Unix(0, 1)) })
	defer stop()
	if err := c.exchange(size); err != nil {
		return fmt.Errorf("%s: %w", c, err)
	}
	return nil
}

func (c *Conversation) exchange(size int) error {
	question := bytes.Repeat([]byte("question "), size/9+1)[:size]
	written := make(chan error, 1)
	go func() {
		_, err := c.conn.Write(question)
		written <- err
	}()
	answer := make([]byte, size)
	_, err := io.ReadFull(c.conn, answer)
	if writeErr := <-written; writeErr != nil {
		return writeErr
	}
	if err == nil && !bytes.Equal(question, answer) {
		err = fmt.Errorf("%d bytes came back altered", size)
	}
	return err
}

// Sizes are those of questions that are answered in one frame and, by TCP, in many.
func (c *Conversation) Sizes() []int {
	if c.Kind == TCP {
		return []int{1, 1000, 60_000}
	}
	return []int{1, 1000}
}

// Close closes the socket; for TCP the server closes its own then.
func (c *Conversation) Close() error {
	if c.pinger != nil {
		return c.pinger.Close()
	}
	if c.conn != nil {
		return c.conn.Close()
	}
	return nil
}

// Questions matches the frames of the client.
func (c *Conversation) Questions() topology.Filter {
	return c.frames(c.Peer, c.Self, topology.EchoRequest)
}

// Answers matches the frames of the server.
func (c *Conversation) Answers() topology.Filter { return c.frames(c.Self, c.Peer, topology.EchoReply) }

func (c *Conversation) frames(from, to netip.AddrPort, echo topology.Filter) topology.Filter {
	addresses := topology.All(topology.From(from.Addr()), topology.To(to.Addr()))
	switch c.Kind {
	case Ping:
		return topology.All(addresses, echo, func(f *topology.Frame) bool { return f.ICMPID == c.Peer.Port() })
	case TCP:
		addresses = topology.All(addresses, topology.TCP)
	case UDP:
		addresses = topology.All(addresses, topology.UDP)
	}
	return topology.All(addresses, topology.FromPort(from.Port()), topology.ToPort(to.Port()))
}

// Behind returns the conversation as it is seen where the server's address has been translated into another one, for
// the sake of Questions and Answers.
func (c *Conversation) Behind(self netip.Addr) *Conversation {
	return &Conversation{Kind: c.Kind, Peer: c.Peer, Self: netip.AddrPortFrom(self, c.Self.Port())}
}

// Masked is Behind for the client's address, whose port is the same.
func (c *Conversation) Masked(peer netip.Addr) *Conversation {
	return &Conversation{Kind: c.Kind, Peer: netip.AddrPortFrom(peer, c.Peer.Port()), Self: c.Self}
}

// Protocol returns the name of the protocol as the product shows it.
func (c *Conversation) Protocol() string {
	switch {
	case c.Kind != Ping:
		return string(c.Kind)
	case c.Self.Addr().Is4():
		return "icmp"
	default:
		return "icmpv6"
	}
}
