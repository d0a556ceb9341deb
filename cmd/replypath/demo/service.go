package demo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"replypath/cmd/replypath/demo/network"
)

const (
	// readySocket is where the service tells that it is ready: in the abstract
	// name space, which each network namespace has for itself.
	readySocket = "@replypath-demo"
	readyTime   = time.Minute
)

// service is `replypath run` on B.
type service struct {
	command *exec.Cmd
	kill    context.CancelFunc
	log     *logBuffer
	ended   chan struct{}
	err     error // how it ended
}

// replypath returns this program with other arguments. It is killed when ctx ends or the thread that starts it, and not
// by the keys that end the demo.
func replypath(ctx context.Context, args ...string) *exec.Cmd {
	command := exec.CommandContext(ctx, executable, args...)
	command.Args[0] = "replypath"
	command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: unix.SIGKILL}
	return command
}

// call runs a command of replypath on a host to its end and returns what it printed.
func call(ctx context.Context, on *network.Host, args ...string) (output []byte, err error) {
	err = on.Do(func() error {
		output, err = replypath(ctx, args...).Output()
		return err
	})
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		err = fmt.Errorf("%w: %s", err, bytes.TrimSpace(exit.Stderr))
	}
	if err != nil {
		return nil, fmt.Errorf("replypath %s: %w", strings.Join(args, " "), err)
	}
	return output, nil
}

// start starts the service on B and waits until it is ready.
func start(ctx context.Context, p *page, b *network.Server) (*service, error) {
	// The host's own configuration has no say here.
	args := []string{"run", "--config", "/dev/null"}
	p.heading("On B: replypath %s", strings.Join(args, " "))
	ready, err := b.ListenPacket(ctx, "unixgram", readySocket)
	if err != nil {
		return nil, err
	}
	defer ready.Close()
	begun := time.Now()
	s, err := launch(ctx, b.Host, args)
	if err != nil {
		return nil, err
	}
	go func() {
		<-s.ended
		_ = ready.Close() // nobody is going to write to it
	}()
	err = awaitReady(ctx, ready)
	took := time.Since(begun).Round(10 * time.Millisecond)
	if err == nil {
		err = showAttached(ctx, p, b, took)
	}
	if err != nil {
		s.end()
		return nil, errors.Join(err, s.failure())
	}
	return s, nil
}

// launch begins the service on a host.
func launch(ctx context.Context, on *network.Host, args []string) (*service, error) {
	ctx, kill := context.WithCancel(ctx)
	s := &service{command: replypath(ctx, args...), kill: kill, log: new(logBuffer), ended: make(chan struct{})}
	s.command.Env = append(s.command.Environ(), "NOTIFY_SOCKET="+readySocket)
	s.command.Stderr = s.log
	begun := make(chan error, 2)
	go func() {
		defer close(s.ended)
		s.err = on.Do(func() error {
			if err := s.command.Start(); err != nil {
				return err
			}
			begun <- nil
			return s.command.Wait()
		})
		begun <- s.err
	}()
	if err := <-begun; err != nil {
		kill()
		return nil, fmt.Errorf("start replypath run: %w", err)
	}
	return s, nil
}

// end kills the service, if it still runs.
func (s *service) end() {
	s.kill()
	<-s.ended
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
	if s.err != nil {
		return errors.Join(fmt.Errorf("replypath run: %w", s.err), s.failure())
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
