// SPDX-License-Identifier: Apache-2.0

package demo

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"replypath/cmd/replypath/demo/network"
)

// readyTime is how long a start may take.
const readyTime = time.Minute

// service is `replypath run` on B.
type service struct {
	command *exec.Cmd
	kill    context.CancelFunc
	ready   chan struct{} // closed once it has logged that it is
	ended   chan struct{}
	log     []string // its last lines, and
	err     error    // how it ended: once it has
}

// replypath returns this program, also when its file has been replaced, with other arguments. It is killed when ctx ends
// or the thread that starts it, and not by the keys that end the demo.
func replypath(ctx context.Context, args ...string) *exec.Cmd {
	command := exec.CommandContext(ctx, "/proc/self/exe", args...)
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

// launch begins the service on a host and waits until it is ready.
func launch(ctx context.Context, on *network.Host, args []string) (*service, error) {
	running, kill := context.WithCancel(ctx)
	s := &service{command: replypath(running, args...), kill: kill, ready: make(chan struct{}), ended: make(chan struct{})}
	log, end := io.Pipe()
	s.command.Stderr = end
	go func() {
		defer close(s.ended)
		s.read(log)
	}()
	go func() {
		s.err = on.Do(s.command.Run)
		end.Close()
	}()
	var err error
	select {
	case <-s.ready:
		return s, nil
	case <-s.ended:
		err = errors.New("replypath run ended before it was ready")
	case <-time.After(readyTime):
		err = fmt.Errorf("start replypath run: not ready in %s", readyTime)
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	return nil, errors.Join(err, s.failure())
}

// read keeps the last lines of the log, and tells when it says that the service is ready.
func (s *service) read(log io.Reader) {
	const most = 5
	ready := s.ready
	for lines := bufio.NewScanner(log); lines.Scan(); {
		s.log = append(s.log, lines.Text())
		s.log = s.log[max(0, len(s.log)-most):]
		if ready != nil && strings.Contains(lines.Text(), "msg=ready") {
			close(ready)
			ready = nil
		}
	}
}

// end kills the service, if it still runs.
func (s *service) end() {
	s.kill()
	<-s.ended
}

// failure ends the service and explains an error of another command by what it logged.
func (s *service) failure() error {
	s.end()
	if len(s.log) == 0 {
		return nil
	}
	return fmt.Errorf("replypath run logged %q", strings.Join(s.log, "\n"))
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
