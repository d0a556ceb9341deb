// SPDX-License-Identifier: Apache-2.0

package load

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"replypath/test/bench/contender"
	"replypath/test/topology"
)

// programTime bounds what a program does beside its measuring.
const programTime = 30 * time.Second

// onCPU returns a program to be run on a host, pinned to a CPU.
func onCPU(ctx context.Context, host *topology.Host, cpu int, name string, args ...string) *topology.Cmd {
	return host.Command(ctx, "taskset", append([]string{"-c", strconv.Itoa(cpu), name}, args...)...)
}

// server is a program that runs until it is told to end, a server or a client of one.
type server struct {
	command *topology.Cmd
	output  *output
	ended   chan struct{}
}

// startServer starts a program and waits until it has written a text; "" waits for nothing.
func startServer(ctx context.Context, c *topology.Cmd, ready string) (*server, error) {
	s := &server{command: c, output: newOutput(ready), ended: make(chan struct{})}
	c.Stdout, c.Stderr = s.output, s.output
	if err := c.Start(); err != nil {
		return nil, err
	}
	go func() {
		defer close(s.ended)
		_ = c.Wait() // its output tells why it ended
	}()
	if ready == "" {
		return s, nil
	}
	ctx, cancel := context.WithTimeout(ctx, programTime)
	defer cancel()
	var err error
	select {
	case <-s.output.found:
		return s, nil
	case <-s.ended:
		err = fmt.Errorf("%s has ended: %q", c.Path, s.output)
	case <-ctx.Done():
		err = fmt.Errorf("%s does not say %q: %w: %q", c.Path, ready, context.Cause(ctx), s.output)
	}
	return nil, errors.Join(err, s.Close())
}

// firstOf returns the error of halting a program, behind which that of its work does not count: it may have been none.
func firstOf(halting, working error) error {
	if halting != nil {
		return halting
	}
	return working
}

// resume has a program go on that halt has stopped.
func (s *server) resume() error {
	if err := s.command.Process.Signal(unix.SIGCONT); err != nil {
		return fmt.Errorf("resume %s: %w: %q", s.command.Path, err, s.output)
	}
	return nil
}

// halt stops a program, and returns when it stands still.
func (s *server) halt() error {
	if err := s.command.Process.Signal(unix.SIGSTOP); err != nil {
		return fmt.Errorf("halt %s: %w: %q", s.command.Path, err, s.output)
	}
	still := make(chan error, 1)
	go func() { still <- unix.Waitid(unix.P_PID, s.command.Process.Pid, nil, unix.WSTOPPED, nil) }()
	select {
	case err := <-still:
		if err != nil {
			return fmt.Errorf("halt %s: %w", s.command.Path, err)
		}
		return nil
	case <-s.ended:
		return fmt.Errorf("%s has ended: %q", s.command.Path, s.output)
	}
}

// rest stops a client, and returns when the server has nothing to do any more either.
func (s *server) rest(ctx context.Context, site *contender.Site) error {
	if err := s.halt(); err != nil {
		return err
	}
	return site.Settle(ctx)
}

// Close ends the program, also one that stands still.
func (s *server) Close() error {
	if s.command.Process.Signal(unix.SIGCONT) != nil { // it has ended
		return nil
	}
	// To PostgreSQL it is a fast shutdown, after which nothing has to be recovered. It is for the first thread: what
	// is sent to the process goes to another one while the first has still to go on (wants_signal() in
	// kernel/signal.c), and wrk's first one would sleep to the end of its time.
	_ = unix.Tgkill(s.command.Process.Pid, s.command.Process.Pid, unix.SIGINT)
	select {
	case <-s.ended:
		return nil
	case <-time.After(programTime):
		return errors.Join(fmt.Errorf("%s does not end", s.command.Path), s.command.Process.Kill())
	}
}

// output keeps what a program writes and looks for a text in it.
type output struct {
	mu     sync.Mutex
	text   bytes.Buffer
	search string
	found  chan struct{}
}

func newOutput(search string) *output { return &output{search: search, found: make(chan struct{})} }

// Write adds to the text.
func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.text.Write(p)
	if o.search != "" && strings.Contains(o.text.String(), o.search) {
		o.search = ""
		close(o.found)
	}
	return len(p), nil
}

// String returns all that was written.
func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

// outputOf runs a program to its end and returns what it printed.
func outputOf(c *topology.Cmd) (string, error) {
	text, err := c.Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		err = fmt.Errorf("%w: %s%s", err, exit.Stderr, text)
	}
	if err != nil {
		return "", fmt.Errorf("%s: %w", strings.Join(c.Args, " "), err)
	}
	return string(text), nil
}

// wholeSeconds is a time as programs take it that know seconds only.
func wholeSeconds(d time.Duration) string {
	return strconv.Itoa(max(1, int(d.Round(time.Second).Seconds())))
}
