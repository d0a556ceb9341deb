// SPDX-License-Identifier: Apache-2.0

package top

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"

	"replypath/cmd/replypath/cli"
	"replypath/test/await"
	"replypath/test/fakehost"
)

// patience is how long a test waits for what has to come.
const patience = 10 * time.Second

// What terminals are told (xterm(1), ctlseqs): to change to another screen, to change back.
const (
	enterScreen = "\x1b[?1049h"
	leaveScreen = "\x1b[?1049l"
)

// terminal is one with replypath in it.
type terminal struct {
	*testing.T
	master, slave *os.File
	command       *exec.Cmd
	before        unix.Termios
	ended         chan struct{}

	mu     sync.Mutex
	output bytes.Buffer
}

// inTerminal starts replypath on the fake host, as the shell of a terminal would.
func inTerminal(t *testing.T, environment []string, args ...string) *terminal {
	t.Helper()
	master, slave, err := pty.Open()
	await.Must(t, err)
	// What package pty did made it block, and reading then outlives Close.
	await.Must(t, unix.SetNonblock(int(master.Fd()), true))
	executable := await.Must1[string](t)(os.Executable())
	term := &terminal{T: t, master: master, slave: slave, ended: make(chan struct{})}
	term.resize(140, 30)
	term.before = term.settings()
	term.command = &exec.Cmd{
		Path: executable, Args: append([]string{"replypath"}, args...), // as TestMain's command
		Env:   append(os.Environ(), append([]string{"TERM=xterm-256color", "TZ=UTC", "NO_COLOR="}, environment...)...),
		Stdin: slave, Stdout: slave, Stderr: slave,
		SysProcAttr: &syscall.SysProcAttr{Setsid: true, Setctty: true},
	}
	await.Must(t, term.command.Start())
	go term.read()
	go func() {
		defer close(term.ended)
		_ = term.command.Wait() // ProcessState has it all
	}()
	t.Cleanup(term.close)
	return term
}

func (t *terminal) close() {
	_ = t.command.Process.Kill() // where it has not ended by itself
	<-t.ended
	t.slave.Close()
	t.master.Close()
	if t.Failed() {
		t.Logf("%q", t.text())
	}
}

// read takes what is written until the terminal is closed.
func (t *terminal) read() {
	chunk := make([]byte, 4096)
	for {
		n, err := t.master.Read(chunk)
		t.mu.Lock()
		t.output.Write(chunk[:n])
		t.mu.Unlock()
		if err != nil {
			return
		}
	}
}

func (t *terminal) text() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.output.String()
}

func (t *terminal) settings() unix.Termios {
	t.Helper()
	settings := await.Must1[*unix.Termios](t)(unix.IoctlGetTermios(int(t.slave.Fd()), unix.TCGETS))
	return *settings
}

func (t *terminal) resize(columns, rows uint16) {
	t.Helper()
	await.Must(t, pty.Setsize(t.slave, &pty.Winsize{Cols: columns, Rows: rows}))
}

func (t *terminal) press(keys string) {
	t.Helper()
	if _, err := t.master.WriteString(keys); err != nil {
		t.Fatal(err)
	}
}

func (t *terminal) signal(s syscall.Signal) {
	t.Helper()
	await.Must(t, t.command.Process.Signal(s))
}

// await waits until something holds.
func (t *terminal) await(what string, holds func() bool) {
	t.Helper()
	deadline, ticker := time.After(patience), time.NewTicker(5*time.Millisecond)
	defer ticker.Stop()
	for !holds() {
		select {
		case <-deadline:
			t.Fatalf("in vain: %s", what)
		case <-ticker.C:
		}
	}
}

// awaitText waits until something was written so many times.
func (t *terminal) awaitText(text string, times int) {
	t.Helper()
	t.await(fmt.Sprintf("%q, %d times", text, times), func() bool { return strings.Count(t.text(), text) >= times })
}

// awaitKeys waits until the screen was taken over for the n-th time, by a command that does not end by itself.
func (t *terminal) awaitKeys(n int) {
	t.Helper()
	t.awaitText(enterScreen, n)
	t.awaitText("q quit", n)
	if t.settings() == t.before {
		t.Error("keys have to be read one by one, without being shown")
	}
}

// awaitExit waits for the end and returns the exit code.
func (t *terminal) awaitExit() int {
	t.Helper()
	select {
	case <-t.ended:
	case <-time.After(patience):
		t.Fatal("it does not end")
	}
	return t.command.ProcessState.ExitCode()
}

// awaitEnd waits for the end with an exit code, after which the terminal has to be as before.
func (t *terminal) awaitEnd(code int) {
	t.Helper()
	if got := t.awaitExit(); got != code {
		t.Errorf("exit code %d, not %d", got, code)
	}
	t.checkRestored(1)
}

// checkRestored wants the terminal as it was before it was taken over n times.
func (t *terminal) checkRestored(n int) {
	t.Helper()
	t.awaitText(leaveScreen, n)
	t.awaitText("\x1b[?25h", n) // the cursor
	if after := t.settings(); after != t.before {
		t.Errorf("the terminal had the settings\n%+v, and has\n%+v", t.before, after)
	}
}

// The terminal is given back whatever ends top, and what it has to say then stands on the screen that stays.
func TestTopEnds(t *testing.T) {
	send := func(s syscall.Signal) func(*terminal) { return func(t *terminal) { t.signal(s) } }
	press := func(keys string) func(*terminal) { return func(t *terminal) { t.press(keys) } }
	for name, test := range map[string]struct {
		args string
		end  func(*terminal)
		code int
		says string
	}{
		"q":       {"watched", press("q"), cli.ExitDone, ""},
		"Ctrl-C":  {"watched", press("\x03"), cli.ExitDone, ""},
		"paste":   {"watched", press("q" + strings.Repeat("x", 3000)), cli.ExitDone, ""},
		"SIGINT":  {"watched", send(unix.SIGINT), cli.ExitDone, ""},
		"SIGTERM": {"watched", send(unix.SIGTERM), cli.ExitDone, ""},
		"SIGHUP":  {"watched", send(unix.SIGHUP), cli.ExitDone, ""},
		"SIGQUIT": {"watched", send(unix.SIGQUIT), cli.ExitDone, ""},
		"count":   {"watched --count 2 --interval 100ms", nil, cli.ExitDone, ""},
		"detach":  {fakehost.DetachedDir + " --interval 300ms", nil, cli.ExitFailed, "replypath: no datapath is pinned in detached"},
		"panic":   {fakehost.PanicDir + " --interval 300ms", nil, 2, "panic: a look at the fake host"},
	} {
		t.Run(name, func(t *testing.T) {
			term := inTerminal(t, nil, append([]string{"top", "--pin-dir"}, strings.Fields(test.args)...)...)
			if test.end != nil {
				term.awaitKeys(1)
				test.end(term)
			}
			term.awaitEnd(test.code)
			term.awaitText(test.says, 1)
			_, after, _ := strings.Cut(term.text(), leaveScreen)
			if !strings.Contains(after, test.says) || test.says == "" && strings.Contains(after, "replypath") {
				t.Errorf("says %q, not %q", after, test.says)
			}
		})
	}
}

// While a shell has stopped it, the terminal is the shell's.
func TestTopStops(t *testing.T) {
	for name, stop := range map[string]func(*terminal){
		"Ctrl-Z":  func(t *terminal) { t.press("\x1a") },
		"paste":   func(t *terminal) { t.press("\x1a" + strings.Repeat("x", 3000)) },
		"SIGTSTP": func(t *terminal) { t.signal(unix.SIGTSTP) },
	} {
		t.Run(name, func(t *testing.T) {
			term := inTerminal(t, nil, "top", "--pin-dir", "watched", "--interval", "1h")
			term.awaitKeys(1)
			stop(term)
			term.await("it is stopped", func() bool {
				stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", term.command.Process.Pid))
				return err == nil && bytes.Contains(stat, []byte(") T "))
			})
			term.checkRestored(1)
			term.signal(unix.SIGCONT)
			term.awaitKeys(2)
			term.press("q")
			term.awaitEnd(cli.ExitDone)
			term.checkRestored(2)
		})
	}
}

// Of a terminal that goes away either SIGHUP or the error is seen first.
func TestTopHangsUp(t *testing.T) {
	term := inTerminal(t, nil, "top", "--pin-dir", "watched", "--interval", "1h")
	term.awaitKeys(1)
	await.Must(t, term.master.Close())
	if code := term.awaitExit(); code != cli.ExitDone && code != cli.ExitFailed {
		t.Errorf("exit code %d", code)
	}
}

func TestTopResizes(t *testing.T) {
	term := inTerminal(t, nil, "top", "--pin-dir", "watched", "--interval", "1h")
	term.awaitKeys(1)
	for i, rows := range []uint16{40, 12, 50} {
		term.resize(80, rows)
		term.awaitText(fmt.Sprintf("\x1b[%d;1H", rows), 1) // the last line
		term.awaitText("q quit", 2+i)
	}
	term.press("q")
	term.awaitEnd(cli.ExitDone)
}

// Without a wish for colours there are none, and without a screen no codes at all.
func TestTopCodes(t *testing.T) {
	colours := regexp.MustCompile("\x1b\\[([0-9]+;)*3[0-8](;[0-9]+)*m") // ECMA-48, 8.3.117
	for name, test := range map[string]struct {
		environment, format string
		screen, coloured    bool
	}{
		"colours":  {"", "table", true, true},
		"NO_COLOR": {"NO_COLOR=1", "table", true, false},
		"dumb":     {"TERM=dumb", "table", false, false},
		"no TERM":  {"TERM=", "table", false, false},
		"json":     {"", "json", false, false},
	} {
		t.Run(name, func(t *testing.T) {
			term := inTerminal(t, []string{test.environment},
				"top", "--pin-dir", "watched", "--interval", "100ms", "--count", "2", "-o", test.format)
			if test.screen {
				term.awaitEnd(cli.ExitDone)
			} else {
				term.awaitText("12:30:03", 1)
				term.awaitExit()
			}
			text := term.text()
			if got := strings.Contains(text, "\x1b"); got != test.screen {
				t.Errorf("escape codes: %v", got)
			}
			if got := colours.MatchString(text); got != test.coloured {
				t.Errorf("colours: %q", colours.FindAllString(text, -1))
			}
		})
	}
}
