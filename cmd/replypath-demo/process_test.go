// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"replypath/test/await"
	"replypath/test/product"
)

// limit is how long a demo may take in a test.
const limit = 30 * time.Second

// process is a demo that runs as its user runs it.
type process struct {
	t       *testing.T
	command *exec.Cmd
	lines   *bufio.Scanner
	stdout  strings.Builder // what has been read of it
	stderr  bytes.Buffer
	tempDir string
}

// demoCommand runs this test program as the demo.
func demoCommand(t *testing.T, args ...string) *exec.Cmd {
	command := exec.CommandContext(t.Context(), "/proc/self/exe", args...)
	command.Env = append(os.Environ(), demoVariable+"=1")
	return command
}

func startDemo(t *testing.T, args ...string) *process {
	t.Helper()
	p := &process{t: t, tempDir: t.TempDir(), command: demoCommand(t, args...)}
	p.command.Env = append(p.command.Env, "TMPDIR="+p.tempDir)
	p.command.Stderr = &p.stderr
	p.lines = bufio.NewScanner(await.Must1[io.ReadCloser](t)(p.command.StdoutPipe()))
	await.Must(t, p.command.Start())
	overdue := time.AfterFunc(limit, func() {
		t.Errorf("the demo still runs after %s", limit)
		_ = p.command.Process.Kill()
	})
	t.Cleanup(func() { overdue.Stop() })
	return p
}

// awaitLine reads until a line begins with some text.
func (p *process) awaitLine(begin string) {
	p.t.Helper()
	for p.lines.Scan() {
		p.stdout.WriteString(p.lines.Text() + "\n")
		if strings.HasPrefix(p.lines.Text(), begin) {
			return
		}
	}
	p.t.Fatalf("no line %q in:\n%s%s", begin, p.stdout.String(), p.stderr.String())
}

func (p *process) signal(s syscall.Signal) {
	p.t.Helper()
	await.Must(p.t, p.command.Process.Signal(s))
}

// wait reads the rest and returns how the process ended.
func (p *process) wait() syscall.WaitStatus {
	p.t.Helper()
	for p.lines.Scan() {
		p.stdout.WriteString(p.lines.Text() + "\n")
	}
	await.Must(p.t, p.lines.Err())
	err := p.command.Wait()
	if exit := new(exec.ExitError); err != nil && !errors.As(err, &exit) {
		p.t.Fatal(err)
	}
	return p.command.ProcessState.Sys().(syscall.WaitStatus)
}

// demoVariable makes the test program the demo.
const demoVariable = "REPLYPATH_TEST_DEMO"

// TestMain makes the test program the heir of whatever a demo leaves running.
func TestMain(m *testing.M) {
	if os.Getenv(demoVariable) != "" {
		main()
		return
	}
	product.Sandboxed(func() int {
		if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
			fmt.Fprintln(os.Stderr, "become the heir of orphans:", err)
			return 1
		}
		return m.Run()
	})
}
