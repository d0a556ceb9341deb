// SPDX-License-Identifier: Apache-2.0

package demo

import (
	"context"
	"errors"
	"io"
	"net/netip"
	"slices"
	"sync"
	"time"

	"replypath/cmd/replypath/demo/network"
)

const (
	// answerTime is enough for any answer that comes at all.
	answerTime = 5 * time.Second
	// silence is how long an answer that went the wrong way has to arrive. It
	// is shorter than the second after which TCP repeats itself.
	silence = 900 * time.Millisecond
)

// setting is whether replypath runs, and what is expected then.
type setting struct {
	name     string
	port     uint16 // of A's TCP and UDP sockets: it tells the packets of one round from another's
	answered bool
}

var (
	withoutReplypath = setting{"without replypath", 40001, false}
	withReplypath    = setting{"with replypath", 40002, true}
)

// round is all questions in both families, those in IPv4 first, with all frames
// that passed the cables of B meanwhile.
type round struct {
	setting
	network      *network.Network
	questions    []*question
	eth0, eth1   way
	open         []io.Closer
	begun, drops uint64 // of the production router's policy: when it began, and since
	wrong        int    // replies that had left by eth0 when drops was read
}

// way is an interface of B's, with the frames that the router's end of its cable
// gets: what is there has really left B.
type way struct {
	*network.Interface
	capture *network.Capture
}

// replies returns those to questions, in the order of the questions.
func (w way) replies(questions ...*question) []*network.Frame {
	var found []*network.Frame
	for _, q := range questions {
		found = append(found, w.capture.Frames(q.isReply)...)
	}
	return found
}

// newRound starts servers and captures.
func newRound(ctx context.Context, n *network.Network, s setting) (r *round, err error) {
	r = &round{setting: s, network: n, eth0: way{Interface: n.B.Eth0}, eth1: way{Interface: n.B.Eth1}}
	defer func() {
		if err != nil {
			err = errors.Join(err, r.close())
		}
	}()
	if err := r.serve(ctx, n.B); err != nil {
		return nil, err
	}
	for _, w := range []*way{&r.eth0, &r.eth1} {
		if w.capture, err = w.Peer.Capture(); err != nil {
			return nil, err
		}
		r.open = append(r.open, w.capture)
	}
	for _, f := range network.Families {
		for _, kind := range kinds {
			q := newQuestion(n, kind, f, s.port)
			r.questions, r.open = append(r.questions, q), append(r.open, q)
		}
	}
	r.begun, err = n.Drops()
	return r, err
}

// serve starts a TCP and a UDP server at each address of B's eth1, which send back
// what they are sent. Not at the wildcard address: there a UDP socket also answers
// from the wrong address.
func (r *round) serve(ctx context.Context, b *network.Server) error {
	for _, f := range network.Families {
		address := netip.AddrPortFrom(b.Eth1.Address(f), serverPort).String()
		listener, err := b.Listen(ctx, address)
		if err != nil {
			return err
		}
		r.open = append(r.open, listener)
		go serveTCP(listener)
		conn, err := b.ListenPacket(ctx, "udp", address)
		if err != nil {
			return err
		}
		r.open = append(r.open, conn)
		go serveUDP(conn)
	}
	return nil
}

// close hangs up and ends captures and servers.
func (r *round) close() error {
	var errs []error
	for _, open := range slices.Backward(r.open) {
		errs = append(errs, open.Close())
	}
	return errors.Join(errs...)
}

// ask asks everything at once and waits for the answers, or in vain until each
// reply has been seen on its wrong way and had time to arrive nevertheless. Then
// it notes what the router has dropped.
func (r *round) ask(ctx context.Context, inVain bool) error {
	asking, giveUp := context.WithTimeout(ctx, answerTime)
	defer giveUp()
	var all sync.WaitGroup
	for _, q := range r.questions {
		all.Go(func() { q.put(asking) })
	}
	if inVain {
		unseen := func(q *question) bool { return len(r.eth0.replies(q)) == 0 }
		for asking.Err() == nil && slices.ContainsFunc(r.questions, unseen) {
			time.Sleep(time.Millisecond)
		}
		time.AfterFunc(silence, giveUp)
	}
	all.Wait()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	// In this order: replies are still sent again meanwhile.
	r.wrong = len(r.eth0.replies(r.questions...))
	now, err := r.network.Drops()
	r.drops = now - r.begun
	return err
}
