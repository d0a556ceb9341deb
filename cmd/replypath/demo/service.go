package demo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"replypath/test/topology"
)

const (
	// readySocket is where the service tells that it is ready: in the abstract
	// name space, which each network namespace has for itself.
	readySocket = "@replypath-demo"
	readyTime   = time.Minute
)

// service is `replypath run` on B.
type service struct {
	command *topology.Cmd
	log     *logBuffer
	ended   chan struct{}
}

// replypath returns this program with other arguments, to be run on a host.
func replypath(ctx context.Context, on *topology.Host, args ...string) *topology.Cmd {
	command := on.Command(ctx, executable, args...)
	command.Args[0] = "replypath"
	return command
}

// call runs a command of replypath on B to its end and returns what it printed.
func (d *demo) call(ctx context.Context, args ...string) ([]byte, error) {
	output, err := replypath(ctx, d.s1.B.Host, args...).Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		err = fmt.Errorf("%w: %s", err, bytes.TrimSpace(exit.Stderr))
	}
	if err != nil {
		return nil, fmt.Errorf("replypath %s: %w", strings.Join(args, " "), err)
	}
	return output, nil
}

// start starts the service and waits until it is ready.
func (d *demo) start(ctx context.Context) (*service, error) {
	// The host's own configuration has no say here.
	args := []string{"run", "--config", "/dev/null"}
	d.heading("On B: replypath %s", strings.Join(args, " "))
	b := d.s1.B
	ready, err := b.ListenPacket(ctx, "unixgram", readySocket)
	if err != nil {
		return nil, err
	}
	defer ready.Close()
	s := &service{command: replypath(ctx, b.Host, args...), log: new(logBuffer), ended: make(chan struct{})}
	s.command.Env = append(s.command.Environ(), "NOTIFY_SOCKET="+readySocket)
	s.command.Stderr = s.log
	begun := time.Now()
	if err := s.command.Start(); err != nil {
		return nil, err
	}
	go func() {
		defer close(s.ended)
		_ = s.command.Wait() // stop asks again
		_ = ready.Close()    // nobody is going to write to it
	}()
	if err := awaitReady(ctx, ready); err != nil {
		return nil, errors.Join(err, s.failure())
	}
	took := time.Since(begun).Round(10 * time.Millisecond)
	return s, d.showAttached(ctx, took)
}

// failure explains an error of another command by what the service logged.
func (s *service) failure() error {
	if text := s.log.tail(); text != "" {
		return fmt.Errorf("replypath run logged %q", text)
	}
	return nil
}

// stop ends the service, which leaves the datapath in place.
func (s *service) stop() error {
	if err := s.command.Process.Signal(unix.SIGTERM); err != nil {
		return fmt.Errorf("end replypath run: %w", err)
	}
	<-s.ended
	if err := s.command.Wait(); err != nil {
		return errors.Join(fmt.Errorf("replypath run: %w", err), s.failure())
	}
	return nil
}

// logBuffer keeps what the service writes. It is safe for concurrent use.
type logBuffer struct {
	mu   sync.Mutex
	text []byte
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.text = append(l.text, p...)
	return len(p), nil
}

// tail returns the last lines.
func (l *logBuffer) tail() string {
	const most = 5
	l.mu.Lock()
	defer l.mu.Unlock()
	lines := strings.Split(strings.TrimSpace(string(l.text)), "\n")
	return strings.Join(lines[max(0, len(lines)-most):], "\n")
}
