// SPDX-License-Identifier: Apache-2.0

package product

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"replypath/test/await"
	"replypath/test/topology"
)

// Daemon is a running `replypath run`.
type Daemon struct {
	*Program
	// Started is when it was started.
	Started time.Time
	// ReadyAfter is the time from then to READY=1.
	ReadyAfter time.Duration
	// Config is the path of its configuration, "" without one.
	Config string

	notices *notices
}

// StartOn runs the daemon on a host and waits until it is ready: On and Start.
func StartOn(t testing.TB, host *topology.Host, args ...string) (*Product, *Daemon) {
	t.Helper()
	p := On(t, host)
	return p, p.Start(args...)
}

// Start runs the daemon and waits until it is ready. It is killed at the end of the test if it still runs then.
func (p *Product) Start(args ...string) *Daemon {
	p.t.Helper()
	d := p.Launch(args...)
	d.WaitReady()
	return d
}

// Launch runs the daemon and does not wait.
func (p *Product) Launch(args ...string) *Daemon {
	p.t.Helper()
	return p.LaunchAs(func(*topology.Cmd) {}, args...)
}

// LaunchAs is Launch with a command that the caller prepares.
func (p *Product) LaunchAs(prepare func(*topology.Cmd), args ...string) *Daemon {
	p.t.Helper()
	started := Starting(p.t)
	d := &Daemon{notices: listenForNotices(p.t, started)}
	if i := slices.Index(args, "--config"); i >= 0 {
		d.Config = args[i+1]
	}
	// Not the test's context: the daemon is told to end, and may be needed until then.
	c := p.Command(context.Background(), append([]string{"run"}, args...)...)
	// Who hangs tells about all its threads: see await.
	c.Env = append(os.Environ(), "NOTIFY_SOCKET="+d.notices.path, "GOTRACEBACK=crash")
	prepare(c)
	d.Started = time.Now()
	d.Program = StartProgram(p.t, c, unix.SIGKILL)
	go func() {
		<-d.ended
		started()
	}()
	return d
}

// WaitReady returns when the daemon has said that it is ready.
func (d *Daemon) WaitReady() {
	d.t.Helper()
	d.await("READY=1")
	d.ReadyAfter = time.Since(d.Started)
}

// await returns when the daemon has told the service manager a state.
func (d *Daemon) await(state string) {
	d.t.Helper()
	ctx := await.Within(d.t, await.StartTime)
	for {
		select {
		case got := <-d.notices.states:
			if got == state {
				return
			}
		case <-d.ended:
			d.t.Fatalf("replypath run ended before %s: %v\n%s", state, d.err, d.Log)
		case <-ctx.Done():
			d.end(unix.SIGQUIT) // which has it tell where it hangs
			d.t.Fatalf("no %s within %s:\n%s", state, await.StartTime, d.Log)
		}
	}
}

// Reload has the daemon read its configuration again, and returns when it has.
func (d *Daemon) Reload() {
	d.t.Helper()
	d.Signal(unix.SIGHUP)
	for _, state := range []string{"RELOADING=1", "READY=1"} {
		d.await(state)
	}
}

// Reconfigure has the daemon read another configuration, and returns when it has.
func (d *Daemon) Reconfigure(text string) {
	d.t.Helper()
	await.Must(d.t, os.WriteFile(d.Config, []byte(text), 0o600))
	d.Reload()
}

// Kill ends the daemon by SIGKILL, and returns when it is gone.
func (d *Daemon) Kill() {
	d.t.Helper()
	d.Signal(unix.SIGKILL)
	d.WaitEnd()
}

// Stop ends the daemon by a signal that it obeys, and wants exit code 0.
func (d *Daemon) Stop(s syscall.Signal) {
	d.t.Helper()
	d.Signal(s)
	if code := d.WaitEnd(); code != 0 {
		d.t.Fatalf("replypath run ended with %d after %s:\n%s", code, s, d.Log)
	}
}

// notices is a service manager's end of sd_notify(3).
type notices struct {
	path   string
	states chan string
}

// listenForNotices opens a socket for NOTIFY_SOCKET. It has a path, because an abstract name is known in one network
// namespace only. The first READY=1 says that the start is done.
func listenForNotices(t testing.TB, started func()) *notices {
	t.Helper()
	// Short, because a socket's path is: the test's own directory may be deep.
	dir := await.Must1[string](t)(os.MkdirTemp("", "notify-"))
	t.Cleanup(func() { os.RemoveAll(dir) })
	n := &notices{path: filepath.Join(dir, "socket"), states: make(chan string, 64)}
	conn := await.Must1[*net.UnixConn](t)(net.ListenUnixgram("unixgram", &net.UnixAddr{Name: n.path, Net: "unixgram"}))
	t.Cleanup(func() { conn.Close() })
	go n.receive(conn, started)
	return n
}

func (n *notices) receive(conn *net.UnixConn, started func()) {
	buffer := make([]byte, 4096)
	for {
		length, err := conn.Read(buffer)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		for line := range strings.Lines(string(buffer[:length])) {
			state := strings.TrimSpace(line)
			if state == "READY=1" {
				started()
			}
			n.states <- state
		}
	}
}
