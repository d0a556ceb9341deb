// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// pinDir is where replypath has its pins, on the BPF file system.
const (
	bpfDir = "/sys/fs/bpf"
	pinDir = bpfDir + "/replypath"
)

// replypath is a command of the program, to be started on B. It is killed when ctx ends or the thread that starts it, and
// not by the keys that end the demo.
func (d *demo) replypath(ctx context.Context, args ...string) *exec.Cmd {
	command := exec.CommandContext(ctx, d.program, args...)
	command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: unix.SIGKILL}
	return command
}

// call runs a command to its end and returns what it printed.
func (d *demo) call(ctx context.Context, args ...string) (output string, err error) {
	command := d.replypath(ctx, args...)
	command.Env = append(os.Environ(), "COLUMNS=116") // beside the margin of what it is quoted in
	var stdout, stderr bytes.Buffer
	command.Stdout, command.Stderr = &stdout, &stderr
	if err := d.net.B.Do(command.Run); err != nil {
		return "", fmt.Errorf("replypath %s: %w: %s", strings.Join(args, " "), err, bytes.TrimSpace(stderr.Bytes()))
	}
	return stdout.String(), nil
}

// service is a running `replypath run`.
type service struct {
	command *exec.Cmd
	kill    context.CancelFunc
	log     *bufio.Reader
}

// launch begins the service and waits until it says that it is ready.
func (d *demo) launch(ctx context.Context, args []string) (*service, error) {
	ctx, kill := context.WithCancel(ctx)
	s := &service{command: d.replypath(ctx, args...), kill: kill}
	log, err := s.command.StderrPipe()
	if err == nil {
		err = d.net.B.Do(s.command.Start)
	}
	if err != nil {
		kill()
		return nil, fmt.Errorf("start replypath run: %w", err)
	}
	s.log = bufio.NewReader(log)
	for said := ""; ; {
		line, err := s.log.ReadString('\n')
		said += line
		if err != nil {
			return nil, errors.Join(fmt.Errorf("replypath run ended before it was ready; it logged %q", said), s.end())
		}
		if strings.Contains(line, "msg=ready") {
			return s, nil
		}
	}
}

// end kills the service.
func (s *service) end() error {
	s.kill()
	return s.wait()
}

// stop ends the service, which leaves the datapath in place.
func (s *service) stop() error {
	defer s.kill()
	if err := s.command.Process.Signal(unix.SIGTERM); err != nil {
		return fmt.Errorf("end replypath run: %w", err)
	}
	return s.wait()
}

func (s *service) wait() error {
	rest, _ := io.ReadAll(s.log) // until it has ended
	if err := s.command.Wait(); err != nil {
		return fmt.Errorf("replypath run: %w; it logged %q", err, rest)
	}
	return nil
}
