// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"replypath/test/topology"
)

const (
	// answerTime is enough for any answer that comes at all.
	answerTime = 5 * time.Second
	// silence is how long an answer that went the wrong way has to arrive. It is shorter than the second after which TCP
	// repeats itself.
	silence = 900 * time.Millisecond
)

// round is whether replypath works, and from which port A then asks: it tells the packets of one round from another's.
type round struct {
	name     string
	port     uint16
	answered bool // is expected
}

var (
	withoutReplypath = round{"without replypath", 40001, false}
	withReplypath    = round{"with replypath", 40002, true}
	withoutDaemon    = round{"without the daemon", 40003, true}
)

// question is one that A asks B's eth1 address, from the address of its own eth1.
type question struct {
	name    string          // its kind, and what is asked
	isReply topology.Filter // B's packets to it, as they arrive at a router
	put     func(context.Context) error
	err     error // nil: answered
}

// questions are a ping and a connection in each family.
func (d *demo) questions(port uint16) (list []*question) {
	for _, f := range d.net.Families() {
		from, to := d.net.A.Eth1.Address(f), d.net.B.Eth1.Address(f)
		client, server := netip.AddrPortFrom(from, port), netip.AddrPortFrom(to, serverPort)
		reply := topology.All(topology.Going(topology.Received), topology.From(to), topology.To(from))
		list = append(list, &question{
			name: "ping " + to.String(), isReply: topology.All(reply, topology.EchoReply),
			put: func(ctx context.Context) error {
				_, err := d.net.A.Ping(ctx, topology.Echo{From: from, To: to})
				return err
			},
		}, &question{
			name: "TCP " + server.String(), isReply: topology.All(reply, topology.TCP, topology.ToPort(port)),
			put: func(ctx context.Context) error { return d.connect(ctx, client, server) },
		})
	}
	return list
}

// connect makes a connection, which stays open until the network goes. It ends without a farewell then, also when the process
// is killed: a socket that goes on to repeat its FIN, to a peer whose network is gone, would hold its namespace for minutes.
func (d *demo) connect(ctx context.Context, client, server netip.AddrPort) error {
	conn, err := d.net.A.Dial(ctx, "tcp", server.String(), topology.FromAddress(client))
	if err != nil {
		return err
	}
	d.opening.Lock()
	defer d.opening.Unlock()
	d.open = append(d.open, conn)
	return conn.(*net.TCPConn).SetLinger(0)
}

// ask asks everything at once, waits for the answers, and shows by which interface the replies left. It returns how many did so
// by the one that is expected: eth0 if there is to be no answer.
func (d *demo) ask(ctx context.Context, r round) (replies int, err error) {
	by, other := d.net.B.Eth0, d.net.B.Eth1
	if r.answered {
		by, other = other, by
	}
	left, err := by.Peer().Capture(topology.CaptureOptions{})
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, left.Stop()) }()
	astray, err := other.Peer().Capture(topology.CaptureOptions{})
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, astray.Stop()) }()

	asking, giveUp := context.WithTimeout(ctx, answerTime)
	defer giveUp()
	questions := d.questions(r.port)
	var all sync.WaitGroup
	for _, q := range questions {
		all.Go(func() { q.err = q.put(asking) })
	}
	for _, q := range questions {
		_, _ = left.Wait(asking, q.isReply) // what is missing is told below
	}
	if !r.answered {
		time.AfterFunc(silence, giveUp)
	}
	all.Wait()
	for _, q := range questions {
		d.showReplies(r, q, by, left.Frames(q.isReply))
		d.require(astray.Count(q.isReply) == 0, "%s: %s: a reply left by %s", r.name, q.name, other.Name)
		replies += left.Count(q.isReply)
	}
	return replies, context.Cause(ctx)
}

// showReplies shows what became of a question, and wants its replies to have left by an interface, to the gateway at the other
// end of its cable.
func (d *demo) showReplies(r round, q *question, by *topology.Interface, replies []*topology.Frame) {
	mark, became := "✓", "answered"
	if q.err != nil {
		mark, became = "✗", "no answer"
	}
	d.require((q.err == nil) == r.answered, "%s: %s: %s", r.name, q.name, became)
	isOurs := topology.All(topology.FromMAC(by.MAC), topology.ToMAC(by.Peer().MAC))
	isAstray := func(f *topology.Frame) bool { return !isOurs(f) }
	d.require(len(replies) > 0 && !slices.ContainsFunc(replies, isAstray), "%s: %s: not all replies left by %s to its gateway",
		r.name, q.name, by.Name)
	d.line("%s %-27s %-10s %d left by %s (%s > %s)", mark, q.name, became, len(replies), by.Name, by.MAC, by.Peer().MAC)
}
