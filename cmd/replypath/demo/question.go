package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"time"

	"replypath/cmd/replypath/demo/network"
	"replypath/cmd/replypath/output"
	"replypath/loader/flows"
)

// serverPort is where B answers, by TCP and by UDP.
const serverPort = 7000

// kind is a way to ask.
type kind struct {
	name     string
	ask      func(context.Context, *question) error
	protocol map[network.Family]string // in the flow table
}

var kinds = []kind{
	{"ping", ping, map[network.Family]string{network.IPv4: "icmp", network.IPv6: "icmpv6"}},
	{"TCP", talk("tcp"), map[network.Family]string{network.IPv4: "tcp", network.IPv6: "tcp"}},
	{"UDP", talk("udp"), map[network.Family]string{network.IPv4: "udp", network.IPv6: "udp"}},
}

// question is one that A asks B's eth1 address, from the address of its own
// eth1, and what became of it.
type question struct {
	kind
	family network.Family
	from   *network.Server
	asker  netip.AddrPort // A's; the port is TCP's and UDP's
	asked  netip.Addr

	took time.Duration
	err  error     // nil: answered
	conn io.Closer // nil for none
}

// newQuestion is one of a kind in a family, from a port of A's.
func newQuestion(n *network.Network, k kind, f network.Family, port uint16) *question {
	return &question{
		kind: k, family: f, from: n.A,
		asker: netip.AddrPortFrom(n.A.Eth1.Address(f), port),
		asked: n.B.Eth1.Address(f),
	}
}

// put asks and waits for the answer until ctx ends.
func (q *question) put(ctx context.Context) {
	begun := time.Now()
	q.err = q.ask(ctx, q)
	q.took = time.Since(begun)
}

// target is what was asked, with the port where there is one.
func (q *question) target() string {
	if q.name == "ping" {
		return q.asked.String()
	}
	return netip.AddrPortFrom(q.asked, serverPort).String()
}

// isReply tells B's packets to this very question.
func (q *question) isReply(f *network.Frame) bool {
	return f.Protocol == q.protocol[q.family] && f.Source.Addr() == q.asked && f.Destination.Addr() == q.asker.Addr() &&
		(q.name == "ping" || f.Destination.Port() == q.asker.Port())
}

// isFlow tells the question's flow on an interface by the hosts; there is one for each kind.
func (q *question) isFlow(f *flows.Flow, name string) bool {
	return f.Protocol == q.protocol[q.family] && f.Peer == q.asker.Addr().String() && f.Self == q.asked.String() &&
		output.OrEmpty(f.Interface) == name
}

// talk returns a way to send a message to the echo server and read it back. The
// connection stays open, so that it can be seen in the flow table.
func talk(protocol string) func(context.Context, *question) error {
	return func(ctx context.Context, q *question) error {
		var local net.Addr = net.TCPAddrFromAddrPort(q.asker)
		if protocol == "udp" {
			local = net.UDPAddrFromAddrPort(q.asker)
		}
		conn, err := q.from.Dial(ctx, protocol, q.target(), local)
		if err != nil {
			return err
		}
		q.conn = conn
		if err := endByReset(conn); err != nil {
			return err
		}
		stop := context.AfterFunc(ctx, func() { conn.Close() })
		defer stop()
		return echo(conn, "who are you?")
	}
}

// endByReset has a TCP connection end without a farewell, also when the process
// is killed. A socket that goes on to repeat its FIN, to a peer whose network is
// gone, would hold its network namespace for minutes.
func endByReset(conn net.Conn) error {
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		return nil
	}
	return tcp.SetLinger(0)
}

func echo(conn net.Conn, message string) error {
	if _, err := io.WriteString(conn, message); err != nil {
		return err
	}
	answer := make([]byte, len(message))
	if _, err := io.ReadFull(conn, answer); err != nil {
		return err
	}
	if string(answer) != message {
		return fmt.Errorf("%q was answered by %q", message, answer)
	}
	return nil
}

func (q *question) close() error {
	if q.conn == nil {
		return nil
	}
	if err := q.conn.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
		return fmt.Errorf("hang up: %w", err)
	}
	return nil
}
