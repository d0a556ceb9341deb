// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"strconv"
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
func (d *demo) call(ctx context.Context, args ...string) (output []byte, err error) {
	err = d.net.B.Do(func() error {
		output, err = d.replypath(ctx, args...).Output()
		return err
	})
	if exit := new(exec.ExitError); errors.As(err, &exit) {
		err = fmt.Errorf("%w: %s", err, bytes.TrimSpace(exit.Stderr))
	}
	if err != nil {
		return nil, fmt.Errorf("replypath %s: %w", strings.Join(args, " "), err)
	}
	return output, nil
}

// read asks a command for JSON.
func (d *demo) read(ctx context.Context, document any, command string) error {
	text, err := d.call(ctx, command, "-o", "json")
	if err != nil {
		return err
	}
	if err := json.Unmarshal(text, document); err != nil {
		return fmt.Errorf("replypath %s: %w", command, err)
	}
	return nil
}

// service is a running `replypath run`.
type service struct {
	command *exec.Cmd
	kill    context.CancelFunc
	log     *bufio.Reader
	said    string // what has been read of the log
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
	for {
		line, err := s.log.ReadString('\n')
		s.said += line
		if err != nil {
			return nil, errors.Join(errors.New("replypath run ended before it was ready"), s.end())
		}
		if strings.Contains(line, "msg=ready") {
			return s, nil
		}
	}
}

// end kills the service and returns what it has logged as an error.
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
		return fmt.Errorf("replypath run: %w; it logged %q", err, s.said+string(rest))
	}
	return nil
}

// scrape reads metrics from B's side.
func (d *demo) scrape(ctx context.Context, address string) (string, error) {
	client := http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			return d.net.B.Dial(ctx, network, address)
		},
		DisableKeepAlives: true,
	}}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return "", err
	}
	response, err := client.Do(request)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = errors.New(response.Status)
	}
	return string(text), err
}

// samples returns the lines of a metric that has labels, and the sum of their values.
func samples(text, metric string) (found []string, sum float64, err error) {
	for line := range strings.Lines(text) {
		if !strings.HasPrefix(line, metric+"{") {
			continue
		}
		line = strings.TrimSpace(line)
		value, err := strconv.ParseFloat(line[strings.LastIndexByte(line, ' ')+1:], 64)
		if err != nil {
			return nil, 0, fmt.Errorf("read the metrics: %s: %w", line, err)
		}
		found, sum = append(found, line), sum+value
	}
	return found, sum, nil
}
