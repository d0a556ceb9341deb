// SPDX-License-Identifier: Apache-2.0

package load

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"replypath/test/bench/contender"
)

// sources is how many addresses connections come from by turns: else ports would be
// used again while the server still remembers their last connection.
const sources = 256

// tcpConnections opens a connection for each request. The server closes first.
func tcpConnections(_ context.Context, s *contender.Site, _ *Shared) (Work, error) {
	c := newCrew()
	if err := connectInTurns(c, s); err != nil {
		return nil, c.closeAfter(err)
	}
	return c, nil
}

func connectInTurns(c *crew, s *contender.Site) error {
	listener, err := listenOn(s, 16)
	if err != nil {
		return err
	}
	c.keep(listener)
	request, buffer := make([]byte, requestSize), make([]byte, requestSize)
	c.serve(s.Server, CPU(), func() error {
		fd, err := accept(listener)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		err = turnBack(fd, buffer)
		if errors.Is(err, errEnded) || errors.Is(err, unix.ECONNRESET) {
			return nil // the client did not want to wait: it asks again
		}
		return err
	})
	var turn uint32
	answer := make([]byte, requestSize)
	c.ask(s.Client, CPU(), func() error {
		turn++
		err := askOnce(s.ClientAt(turn%sources), s.Self, request, answer)
		if errors.Is(err, unix.ECONNRESET) {
			return nil // the server did not want to wait: ask again
		}
		if err == nil {
			c.done.Add(1)
		}
		return err
	})
	return nil
}

// askOnce connects, asks, reads the answer and the end of the connection.
func askOnce(from, to netip.Addr, request, answer []byte) error {
	fd, err := connectHere(from, to)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if _, err := unix.Write(fd, request); err != nil {
		return fmt.Errorf("send a request: %w", err)
	}
	for {
		n, err := read(fd, answer)
		if err != nil {
			return fmt.Errorf("read an answer: %w", err)
		}
		if n == 0 {
			return nil
		}
	}
}
