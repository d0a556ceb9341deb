// SPDX-License-Identifier: Apache-2.0

package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"strings"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"

	"replypath/cmd/replypath/demo/network"
	"replypath/cmd/replypath/output"
	"replypath/loader/flows"
)

// serverPort is where B answers, by TCP and by UDP.
const serverPort = 7000

// kinds are the ways to ask.
var kinds = []string{"ping", "TCP", "UDP"}

// question is one that A asks B's eth1 address, from the address of its own
// eth1, and what became of it.
type question struct {
	name     string // its kind
	protocol string // in the flow table
	family   network.Family
	from     *network.Server
	// The ports are TCP's and UDP's.
	asker, asked netip.AddrPort
	ask          func(context.Context, *question) error

	took time.Duration
	err  error     // nil: answered
	conn io.Closer // nil for none
}

// newQuestion is one of a kind in a family, from a port of A's.
func newQuestion(n *network.Network, kind string, f network.Family, port uint16) *question {
	q := &question{name: kind, protocol: strings.ToLower(kind), family: f, from: n.A, ask: talk}
	asked := uint16(serverPort)
	if kind == "ping" {
		q.protocol, q.ask = echoes[f].name, ping
		port, asked = 0, 0
	}
	q.asker = netip.AddrPortFrom(n.A.Eth1.Address(f), port)
	q.asked = netip.AddrPortFrom(n.B.Eth1.Address(f), asked)
	return q
}

// put asks and waits for the answer until ctx ends.
func (q *question) put(ctx context.Context) {
	begun := time.Now()
	q.err = q.ask(ctx, q)
	q.took = time.Since(begun)
}

// String is the kind of question and what was asked, with the port where there is one.
func (q *question) String() string { return q.name + " to " + endpoint(q.asked) }

func endpoint(a netip.AddrPort) string { return output.Endpoint(a.Addr().String(), a.Port()) }

// isReply tells B's packets to this very question.
func (q *question) isReply(f *network.Frame) bool {
	return f.Protocol == q.protocol && f.Source == q.asked && f.Destination == q.asker
}

// isFlow tells the question's flow on an interface by the hosts; there is one for each kind.
func (q *question) isFlow(f *flows.Flow, name string) bool {
	return f.Protocol == q.protocol && f.Peer == q.asker.Addr().String() && f.Self == q.asked.Addr().String() &&
		output.OrEmpty(f.Interface) == name
}

// talk sends a message to the echo server and reads it back. The connection stays
// open, so that it can be seen in the flow table.
func talk(ctx context.Context, q *question) error {
	var local net.Addr = net.TCPAddrFromAddrPort(q.asker)
	if q.protocol == "udp" {
		local = net.UDPAddrFromAddrPort(q.asker)
	}
	conn, err := q.from.Dial(ctx, q.protocol, q.asked.String(), local)
	if err != nil {
		return err
	}
	q.conn = conn
	if err := endByReset(conn); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	const message = "who are you?"
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

// Close hangs up.
func (q *question) Close() error {
	if q.conn == nil {
		return nil
	}
	if err := q.conn.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
		return fmt.Errorf("hang up: %w", err)
	}
	return nil
}

// echoes are the names and numbers of a ping.
var echoes = map[network.Family]struct {
	name, protocol string
	number         int
	request, reply icmp.Type
}{
	network.IPv4: {"icmp", "ip4:icmp", 1, ipv4.ICMPTypeEcho, ipv4.ICMPTypeEchoReply},
	network.IPv6: {"icmpv6", "ip6:ipv6-icmp", 58, ipv6.ICMPTypeEchoRequest, ipv6.ICMPTypeEchoReply},
}

// ping sends an echo request and waits for its answer until ctx ends. What else arrives is passed over.
func ping(ctx context.Context, q *question) error {
	echo := echoes[q.family]
	conn, err := q.from.ListenPacket(ctx, echo.protocol, q.asker.Addr().String())
	if err != nil {
		return err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.SetReadDeadline(time.Unix(0, 1)) })
	defer stop()
	id := 1 + rand.IntN(0xffff)
	// The kernel fills in the checksum of ICMPv6.
	request, err := (&icmp.Message{Type: echo.request, Body: &icmp.Echo{ID: id}}).Marshal(nil)
	if err != nil {
		return fmt.Errorf("build an echo request: %w", err)
	}
	if _, err := conn.WriteTo(request, &net.IPAddr{IP: q.asked.Addr().AsSlice()}); err != nil {
		return err
	}
	for buffer := make([]byte, 1<<16); ; {
		n, _, err := conn.ReadFrom(buffer)
		if err != nil {
			return err
		}
		answer, err := icmp.ParseMessage(echo.number, buffer[:n])
		if err != nil || answer.Type != echo.reply {
			continue
		}
		if body, ok := answer.Body.(*icmp.Echo); ok && body.ID == id {
			return nil
		}
	}
}
