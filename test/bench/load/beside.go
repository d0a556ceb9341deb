// SPDX-License-Identifier: Apache-2.0

package load

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"replypath/test/bench/contender"
)

// besideSize is how many bytes a client reads between two requests: more than the first-level caches hold,
// and a part of the second-level cache.
const besideSize = 1 << 20

// cacheLine is what a processor fetches at once, in 64-bit words.
const cacheLine = 8

// beside makes a workload's client do other work between two turns, and counts the time of the
// turns alone. A host that does nothing but answer keeps its caches warm, which no host in use does.
func beside(start func(*crew, *contender.Site) error) func(context.Context, *contender.Site, *Shared) (Work, error) {
	return func(_ context.Context, s *contender.Site, _ *Shared) (Work, error) {
		c := newCrew()
		c.beside = make([]uint64, besideSize/8)
		if err := start(c, s); err != nil {
			return nil, c.closeAfter(err)
		}
		return c, nil
	}
}

// timed returns turn with the other work before it, if there is any.
func (c *crew) timed(turn func() error) func() error {
	if c.beside == nil {
		return turn
	}
	return func() error {
		for i := 0; i < len(c.beside); i += cacheLine {
			c.beside[i]++
		}
		begun := time.Now()
		err := turn()
		c.asking.Add(int64(time.Since(begun)))
		return err
	}
}

// askInTurns sends one request at a time on a connection, and waits for its answer.
func askInTurns(c *crew, s *contender.Site) error {
	listener, err := listenOn(s, 1)
	if err != nil {
		return err
	}
	c.keep(listener)
	client, err := connect(s)
	if err != nil {
		return err
	}
	c.keep(client)
	server, err := accept(listener)
	if err != nil {
		return fmt.Errorf("accept: %w", err)
	}
	poll, err := pollOf(c.keep(server))
	if err != nil {
		return err
	}
	c.serve(s.Server, CPU(), sendBack(c.keep(poll), func() {}))
	message := make([]byte, requestSize)
	waiting := false // for an answer, after a read that took long
	c.ask(s.Client, CPU(), func() error {
		if !waiting {
			if _, err := unix.Write(client, message); err != nil {
				return fmt.Errorf("send a request: %w", err)
			}
		}
		n, err := read(client, message)
		waiting = err != nil
		if err == nil && n > 0 {
			c.done.Add(1)
		}
		return err
	})
	return nil
}
