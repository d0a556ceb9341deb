// SPDX-License-Identifier: Apache-2.0

package product

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"replypath/test/await"
	"replypath/test/topology"
)

// Program is a program that runs on a host beside the test.
type Program struct {
	// Log is its standard output and error.
	Log *Log

	t     testing.TB
	cmd   *topology.Cmd
	name  string
	ended chan struct{}
	err   error // of the process, once it has ended
}

// StartProgram starts a command that the test is going to end by a signal. If it has not by then, that is done when the
// test is cleaned up.
func StartProgram(t testing.TB, c *topology.Cmd, end syscall.Signal) *Program {
	t.Helper()
	p := &Program{Log: new(Log), t: t, cmd: c, name: c.Args[0], ended: make(chan struct{})}
	output := await.Must1[*os.File](t)(p.Log.Pipe())
	c.Stdout, c.Stderr = output, output
	err := c.Start()
	await.Must(t, errors.Join(err, output.Close()))
	go func() {
		defer close(p.ended)
		p.err = c.Wait()
		select {
		case <-p.Log.ended:
		case <-time.After(c.WaitDelay): // somebody whom it has started has its output open
			p.err = cmp.Or(p.err, exec.ErrWaitDelay)
		}
	}()
	t.Cleanup(func() {
		p.end(end)
		if t.Failed() {
			t.Logf("log of %s, pid %d:\n%s", p.name, p.PID(), p.Log)
		}
	})
	return p
}

// end ends the process, by SIGKILL if it does not obey. It may have ended.
func (p *Program) end(s syscall.Signal) {
	_ = p.cmd.Process.Signal(s)
	select {
	case <-p.ended:
	case <-time.After(await.AnswerTime):
		p.t.Errorf("%s does not end by %s", p.name, s)
		_ = p.cmd.Process.Kill()
		<-p.ended
	}
}

// PID returns the process's number.
func (p *Program) PID() int { return p.cmd.Process.Pid }

// WaitLog returns when at least n lines of the log contain all of the words.
func (p *Program) WaitLog(n int, words ...string) {
	p.t.Helper()
	if err := p.Log.Wait(await.Within(p.t, await.AnswerTime), n, words...); err != nil {
		p.t.Fatalf("log of %s: %v\n%s", p.name, err, p.Log)
	}
}

// Signal sends a signal.
func (p *Program) Signal(s syscall.Signal) {
	p.t.Helper()
	await.Must(p.t, p.cmd.Process.Signal(s))
}

// WaitEnd waits until the process has ended and returns its exit code, -1 after a signal.
func (p *Program) WaitEnd() int {
	p.t.Helper()
	return p.WaitEndWithin(await.AnswerTime)
}

// WantEnd waits for the end and wants an exit code.
func (p *Program) WantEnd(code int) {
	p.t.Helper()
	if got := p.WaitEnd(); got != code {
		p.t.Errorf("%s has ended with exit code %d, not %d:\n%s", p.name, got, code, p.Log)
	}
}

// WaitEndWithin is WaitEnd for what takes longer by design.
func (p *Program) WaitEndWithin(d time.Duration) int {
	p.t.Helper()
	select {
	case <-p.ended:
	case <-await.Within(p.t, d).Done():
		p.t.Fatalf("%s has not ended within %s:\n%s", p.name, d, p.Log)
	}
	if exit := new(exec.ExitError); p.err != nil && !errors.As(p.err, &exit) {
		p.t.Fatalf("wait for %s: %v", p.name, p.err)
	}
	return p.cmd.ProcessState.ExitCode()
}

// Memory returns a figure of the daemon's /proc/PID/status, such as VmRSS, in bytes.
func (d *Daemon) Memory(name string) uint64 {
	d.t.Helper()
	return await.Must1[uint64](d.t)(Memory(d.PID(), name))
}

// Memory returns a figure of a process; a process that has ended has none.
func Memory(pid int, name string) (bytes uint64, err error) {
	path := fmt.Sprintf("/proc/%d/status", pid)
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		key, value, _ := strings.Cut(line, ":")
		if key != name {
			continue
		}
		kibibytes, err := strconv.ParseUint(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 64)
		return kibibytes << 10, err
	}
	return 0, fmt.Errorf("%s has no %s", path, name)
}
