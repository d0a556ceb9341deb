// SPDX-License-Identifier: Apache-2.0

package load

import (
	"context"
	"errors"
	"strconv"
	"time"

	"replypath/test/bench/contender"
)

// bulk sends as much as one connection takes, from the server or to it.
func bulk(fromServer bool) func(context.Context, *contender.Site, *Shared) (Work, error) {
	return func(ctx context.Context, s *contender.Site, _ *Shared) (Work, error) {
		program := onCPU(context.Background(), s.Server, CPU(), "iperf3", "--server", "--forceflush",
			"--bind", contender.IPv4.Self.String(), "--port", strconv.Itoa(firstPort))
		server, err := startServer(ctx, program, "Server listening on")
		if err != nil {
			return nil, err
		}
		t := &transfer{server: server, site: s, fromServer: fromServer}
		if err := t.connect(ctx); err != nil {
			return nil, errors.Join(err, server.Close())
		}
		return t, nil
	}
}

// transfer is iperf3 at work.
type transfer struct {
	server, client *server
	site           *contender.Site
	fromServer     bool
}

// longest is how long iperf3 and wrk would go on by themselves.
const longest = 24 * time.Hour

// connect starts the client and has it halt.
func (t *transfer) connect(ctx context.Context) (err error) {
	args := []string{
		"--client", contender.IPv4.Self.String(), "--bind", contender.IPv4.Peer.String(), "--port", strconv.Itoa(firstPort),
		"--time", wholeSeconds(longest), "--connect-timeout", "2000", "--forceflush",
	}
	if t.fromServer {
		args = append(args, "--reverse")
	}
	program := onCPU(context.Background(), t.site.Client, CPU(), "iperf3", args...)
	if t.client, err = startServer(ctx, program, " connected to "); err != nil {
		return err
	}
	if err := t.client.halt(); err != nil {
		return errors.Join(err, t.client.Close())
	}
	return nil
}

// Run lets the client go on, and returns the megabits that pass the server's interfaces in a
// second. A client that stands still neither sends nor takes.
func (t *transfer) Run(ctx context.Context, d time.Duration) (rate float64, err error) {
	if err := t.client.resume(); err != nil {
		return 0, err
	}
	defer func() { err = firstOf(t.client.rest(ctx, t.site), err) }()
	bytes, err := rateOf(ctx, d, nil, t.bytes)
	return bytes * 8 / 1e6, err
}

func (t *transfer) bytes() (uint64, error) {
	sent, received, err := t.site.Bytes()
	if t.fromServer {
		return sent, err
	}
	return received, err
}

// Close ends client and server.
func (t *transfer) Close() error { return errors.Join(t.client.Close(), t.server.Close()) }
