// SPDX-License-Identifier: Apache-2.0

package topology

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"runtime"
	"sync"
	"syscall"
	"time"
)

// Cmd is a program to run on a host. It is used as an [exec.Cmd] is, whose fields it has; all methods that start the
// program do so in the host's network namespace. Of the file system, the program sees the machine's own: /proc/sys/net
// is the host's, /sys/class/net is not.
type Cmd struct {
	*exec.Cmd

	host *Host
	wait func() error
}

// Command returns a program to run on the host. The program gets a process group of its own, which is killed when ctx
// ends or the network is closed; the program itself is killed by the kernel when this process dies.
func (h *Host) Command(ctx context.Context, name string, args ...string) *Cmd {
	c := exec.CommandContext(ctx, name, args...)
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	c.Cancel = func() error { return killGroup(c) }
	// A grandchild that left the group may hold the pipes for ever.
	c.WaitDelay = 5 * time.Second
	return &Cmd{Cmd: c, host: h, wait: sync.OnceValue(c.Wait)}
}

// killGroup kills a started program and its children.
func killGroup(c *exec.Cmd) error {
	err := syscall.Kill(-c.Process.Pid, syscall.SIGKILL)
	if errors.Is(err, syscall.ESRCH) {
		return nil
	}
	return err
}

// Start starts the program.
func (c *Cmd) Start() error {
	n := c.host.network
	launcher, err := n.startLauncher()
	if err != nil {
		return err
	}
	err = launcher.run(func() error { return c.host.Do(c.Cmd.Start) })
	if err != nil {
		return c.host.errorf("start %s: %w", c.Path, err)
	}
	n.mu.Lock()
	closed := n.closed
	if !closed {
		n.processes[c] = struct{}{}
	}
	n.mu.Unlock()
	if closed {
		return errors.Join(ErrClosed, c.kill())
	}
	return nil
}

// Wait waits for the program to end. It may be called more than once.
func (c *Cmd) Wait() error {
	if c.Process == nil {
		return errors.New("exec: not started")
	}
	err := c.wait()
	n := c.host.network
	n.mu.Lock()
	delete(n.processes, c)
	n.mu.Unlock()
	return err
}

// Run starts the program and waits for it.
func (c *Cmd) Run() error {
	if err := c.Start(); err != nil {
		return err
	}
	return c.Wait()
}

// Output runs the program and returns its standard output.
func (c *Cmd) Output() ([]byte, error) {
	var stdout, stderr bytes.Buffer
	c.Stdout = &stdout
	if c.Stderr == nil {
		c.Stderr = &stderr
	}
	err := c.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		exit.Stderr = stderr.Bytes()
	}
	return stdout.Bytes(), err
}

// CombinedOutput runs the program and returns its standard output and error.
func (c *Cmd) CombinedOutput() ([]byte, error) {
	var output bytes.Buffer
	c.Stdout, c.Stderr = &output, &output
	err := c.Run()
	return output.Bytes(), err
}

// kill ends a started program and its children, whose exit status is nobody's business any more.
func (c *Cmd) kill() error {
	if err := killGroup(c.Cmd); err != nil {
		return fmt.Errorf("kill %s (pid %d): %w", c.Path, c.Process.Pid, err)
	}
	var exit *exec.ExitError
	if err := c.Wait(); err != nil && !errors.As(err, &exit) && !errors.Is(err, exec.ErrWaitDelay) {
		return fmt.Errorf("wait for %s (pid %d): %w", c.Path, c.Process.Pid, err)
	}
	return nil
}

// killProcesses ends the programs that still run.
func (n *Network) killProcesses() error {
	n.mu.Lock()
	running := make([]*Cmd, 0, len(n.processes))
	for c := range n.processes {
		running = append(running, c)
	}
	n.mu.Unlock()
	var errs []error
	for _, c := range running {
		errs = append(errs, c.kill())
	}
	return errors.Join(errs...)
}

// launcher is a thread that lives as long as the network and starts its processes: the parent-death signal comes when
// the *thread* that forked ends, and the Go runtime may end any thread but one that is locked.
type launcher struct {
	requests chan func()
	quit     chan struct{}
}

// startLauncher returns the network's launcher.
func (n *Network) startLauncher() (*launcher, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return nil, ErrClosed
	}
	if n.launcher == nil {
		n.launcher = &launcher{requests: make(chan func()), quit: make(chan struct{})}
		go n.launcher.loop()
	}
	return n.launcher, nil
}

func (l *launcher) loop() {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	for {
		select {
		case request := <-l.requests:
			request()
		case <-l.quit:
			return
		}
	}
}

// run calls fn on the launcher's thread.
func (l *launcher) run(fn func() error) error {
	result := make(chan error, 1)
	select {
	case l.requests <- func() { result <- fn() }:
		return <-result
	case <-l.quit:
		return ErrClosed
	}
}

// stop ends the thread's work. A nil launcher was never started.
func (l *launcher) stop() {
	if l != nil {
		close(l.quit)
	}
}
