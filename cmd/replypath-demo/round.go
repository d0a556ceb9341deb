// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"io"
	"net/netip"
	"slices"
	"sync"
	"time"
)

const (
	// answerTime is enough for any answer that comes at all.
	answerTime = 5 * time.Second
	// silence is how long an answer that went the wrong way has to arrive. It is shorter than the second after which TCP
	// repeats itself.
	silence = 900 * time.Millisecond
)

// setting is whether replypath runs, and what is expected then.
type setting struct {
	name     string
	port     uint16 // of A's sockets: it tells the packets of one round from another's
	answered bool
}

var (
	withoutReplypath = setting{"without replypath", 40001, false}
	withReplypath    = setting{"with replypath", 40002, true}
)

// round is all questions in both families, those in IPv4 first.
type round struct {
	setting
	questions []*question
	open      []io.Closer
}

// newRound prepares the questions and starts servers at each address of B's eth1. Not at the wildcard address: there a UDP
// socket also answers from the wrong address.
func (d *demo) newRound(ctx context.Context, s setting) (r *round, err error) {
	r = &round{setting: s}
	defer func() {
		if err != nil {
			err = errors.Join(err, r.close())
		}
	}()
	for _, f := range d.net.Families() {
		servers, err := serve(ctx, d.net.B.Host, netip.AddrPortFrom(d.net.B.Eth1.Address(f), serverPort).String())
		if err != nil {
			return r, err
		}
		r.open = append(r.open, servers...)
		for kind := range kinds {
			q, err := newQuestion(ctx, d.net, f, kind, s.port)
			if err != nil {
				return r, err
			}
			r.questions, r.open = append(r.questions, q), append(r.open, q)
		}
	}
	return r, nil
}

// close hangs up and ends servers.
func (r *round) close() error {
	var errs []error
	for _, open := range slices.Backward(r.open) {
		errs = append(errs, open.Close())
	}
	return errors.Join(errs...)
}

// ask asks everything at once and waits for the answers. It wants to see each reply leave by an interface: answers that do
// so by eth0 are given up once they have had time to arrive nevertheless.
func (d *demo) ask(ctx context.Context, r *round, by way) error {
	asking, giveUp := context.WithTimeout(ctx, answerTime)
	defer giveUp()
	var all sync.WaitGroup
	for _, q := range r.questions {
		all.Go(func() { q.put(asking) })
	}
	for _, q := range r.questions {
		_, _ = by.capture.Wait(asking, q.isReply) // showReplies tells which there were
	}
	if by == d.eth0 {
		time.AfterFunc(silence, giveUp)
	}
	all.Wait()
	return context.Cause(ctx)
}
