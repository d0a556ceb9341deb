// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"time"

	"replypath/test/topology"
)

// serverPort is where B answers, by TCP and by UDP.
const serverPort = 7000

// kinds are the ways to ask, with what matches their answers.
var kinds = []struct {
	name     string
	isAnswer topology.Filter
}{{"ping", topology.EchoReply}, {"TCP", topology.TCP}, {"UDP", topology.UDP}}

// question is one that A asks B's eth1 address, from the address of its own eth1, and what became of it.
type question struct {
	kind     string
	isAnswer topology.Filter
	protocol string // in the flow table
	// asker has the identifier of a ping for its port, and asked none.
	asker, asked netip.AddrPort

	a      *topology.Host
	pinger *topology.Pinger // of a ping only
	open   io.Closer        // nil for none
	took   time.Duration
	err    error // nil: answered
}

// newQuestion is one of a kind in a family, from a port of A's if it has one.
func newQuestion(ctx context.Context, n *topology.S1, f topology.Family, kind int, port uint16) (q *question, err error) {
	from, to := n.A.Eth1.Address(f), n.B.Eth1.Address(f)
	q = &question{kind: kinds[kind].name, isAnswer: kinds[kind].isAnswer, a: n.A.Host}
	if q.kind != "ping" {
		q.protocol = strings.ToLower(q.kind)
		q.asker, q.asked = netip.AddrPortFrom(from, port), netip.AddrPortFrom(to, serverPort)
		return q, nil
	}
	if q.pinger, err = q.a.NewPinger(ctx, topology.Echo{From: from, To: to}); err != nil {
		return nil, err
	}
	q.open, q.protocol = q.pinger, map[topology.Family]string{topology.IPv4: "icmp", topology.IPv6: "icmpv6"}[f]
	q.asker, q.asked = netip.AddrPortFrom(from, q.pinger.ID()), netip.AddrPortFrom(to, 0)
	return q, nil
}

// String is the kind of question and what was asked.
func (q *question) String() string { return q.kind + " to " + endpoint(q.asked) }

// endpoint is an address, with the port where there is one.
func endpoint(a netip.AddrPort) string {
	if a.Port() == 0 {
		return a.Addr().String()
	}
	return a.String()
}

// isReply tells B's packets to this very question, as they arrive at a router.
func (q *question) isReply(f *topology.Frame) bool {
	return q.isAnswer(f) && f.Direction == topology.Received &&
		netip.AddrPortFrom(f.Source, f.SourcePort) == q.asked &&
		netip.AddrPortFrom(f.Destination, f.DestinationPort+f.ICMPID) == q.asker // one of both is 0
}

// put asks and waits for the answer until ctx ends.
func (q *question) put(ctx context.Context) {
	begun := time.Now()
	if q.pinger != nil {
		_, q.err = q.pinger.Ping(ctx)
	} else {
		q.err = q.talk(ctx)
	}
	q.took = time.Since(begun)
}

// talk sends a message to the echo server and reads it back. The connection stays open, so that it can be seen in the
// flow table.
func (q *question) talk(ctx context.Context) error {
	conn, err := q.a.Dial(ctx, q.protocol, q.asked.String(), topology.FromAddress(q.asker))
	if err != nil {
		return err
	}
	q.open = conn
	if err := endByReset(conn); err != nil {
		return err
	}
	defer context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(0, 1)) })()
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

// endByReset has a TCP connection end without a farewell, also when the process is killed. A socket that goes on to
// repeat its FIN, to a peer whose network is gone, would hold its network namespace for minutes.
func endByReset(conn net.Conn) error {
	if tcp, is := conn.(*net.TCPConn); is {
		return tcp.SetLinger(0)
	}
	return nil
}

// Close hangs up.
func (q *question) Close() error {
	if q.open == nil {
		return nil
	}
	return q.open.Close()
}

// serve starts a TCP and a UDP server at an address of a host, which send back what they are sent until they are closed.
func serve(ctx context.Context, host *topology.Host, address string) (servers []io.Closer, err error) {
	listener, err := host.Listen(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	conn, err := host.ListenPacket(ctx, "udp", address)
	if err != nil {
		return nil, errors.Join(err, listener.Close())
	}
	go serveTCP(listener)
	go serveUDP(conn)
	return []io.Closer{listener, conn}, nil
}

// serveTCP leaves what has been connected to end with the client, which tells whether it was answered.
func serveTCP(listener net.Listener) {
	for {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		go func() {
			defer conn.Close()
			if endByReset(conn) == nil {
				_, _ = io.Copy(conn, conn)
			}
		}()
	}
}

func serveUDP(conn net.PacketConn) {
	buffer := make([]byte, 1<<16)
	for {
		n, from, err := conn.ReadFrom(buffer)
		if err != nil {
			return
		}
		_, _ = conn.WriteTo(buffer[:n], from)
	}
}
