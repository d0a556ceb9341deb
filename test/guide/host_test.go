// SPDX-License-Identifier: Apache-2.0

package guide

import (
	"context"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"replypath/test/await"
	testhost "replypath/test/host"
	"replypath/test/topology"
	"replypath/test/traffic"
)

// host is the one that the pages speak of: server B of recipe S1, which systemd has booted, with a checkout in which
// the reader types. Its client asks eth1 all the time.
type host struct {
	t *testing.T
	s *topology.S1
	m *testhost.Machine
	// others are the terminals in which a program goes on.
	others []*terminal
}

// What the client asks, and from where.
var (
	client = netip.MustParseAddrPort("10.1.0.100:50000")
	asked  = netip.MustParseAddrPort("10.4.0.100:5432")
)

// newHost boots the host. Its program is not installed.
func newHost(t *testing.T) *host {
	t.Helper()
	// Without the route A asks by its eth0: all its questions have the address that pages name.
	s := traffic.NewS1(t, topology.S1Options{Policy: topology.AnySource, NoStaticRoute: true})
	h := &host{t: t, s: s, m: testhost.NewMachine(t, s.B.Host)}
	h.m.Boot()
	h.m.WaitBooted()
	h.m.Run("mkdir", "-p", work)
	traffic.ServeAt(t, s.B.Host, asked)
	keepAsking(t, s.A.Host)
	return h
}

// newInstalled boots the host and installs the package on it, as README and install page do.
func newInstalled(t *testing.T) *host {
	t.Helper()
	h := newHost(t)
	h.make("make deb")
	h.m.Run("sh", "-ec", "dpkg -i "+work+"/build/packages/replypath_*.deb")
	return h
}

// keepAsking has the client ask on one connection, and open it anew where it breaks.
func keepAsking(t *testing.T, a *topology.Host) {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for ctx.Err() == nil {
			conn, err := a.Dial(ctx, "tcp", asked.String(), topology.FromAddress(client), topology.ReuseAddress())
			if err == nil {
				_ = ask(ctx, conn)
			}
			time.Sleep(pace)
		}
	}()
	t.Cleanup(func() {
		stop()
		<-ended
	})
}

const pace = 10 * time.Millisecond

// ask asks until there is no answer.
func ask(ctx context.Context, conn net.Conn) error {
	defer conn.Close()
	question := []byte("question")
	for ctx.Err() == nil {
		if err := conn.SetDeadline(time.Now().Add(time.Second)); err != nil {
			return err
		}
		if _, err := conn.Write(question); err != nil {
			return err
		}
		if _, err := conn.Read(make([]byte, len(question))); err != nil {
			return err
		}
		time.Sleep(pace)
	}
	return nil
}

// work is the directory of the machine in which the reader types.
const work = "/run/test/checkout"

// built is where make puts what it makes in place of the checkout and of /, for all pages.
var built string

// made are the commands of make that have been run.
var made = make(map[string]bool)

// make runs a command in the checkout, as it stands: where its results go is told by the environment. The machine gets
// them.
func (h *host) make(command string) {
	h.t.Helper()
	if built == "" {
		built = await.Must1[string](h.t)(os.MkdirTemp("", "built-"))
	}
	if !made[command] {
		c := exec.CommandContext(await.Within(h.t, await.StartTime), "sh", "-euc", command)
		c.Dir = checkout
		c.Env = append(os.Environ(), "MAKEFLAGS=", "PACKAGES="+built+"/build/packages", "BINARY="+built+"/bin/replypath", "DESTDIR="+built+"/root")
		if output, err := c.CombinedOutput(); err != nil {
			h.t.Fatalf("%s: %v\n%s", command, err, output)
		}
		made[command] = true
	}
	packages := await.Must1[[]string](h.t)(filepath.Glob(built + "/build/packages/replypath*.*"))
	for _, file := range packages {
		to := h.m.Shared("checkout/build/packages/" + filepath.Base(file))
		await.Must(h.t, os.MkdirAll(filepath.Dir(to), 0o755))
		await.Must(h.t, os.WriteFile(to, await.Must1[[]byte](h.t)(os.ReadFile(file)), 0o644))
	}
	if strings.HasPrefix(command, "make install") {
		await.Must(h.t, os.CopyFS(h.m.Shared("root"), os.DirFS(built+"/root")))
		h.m.Run("cp", "-r", "/run/test/root/.", "/")
	}
}

// command returns what the reader types in a terminal of 80 columns, to be run by a shell that ends at the first
// failure.
func (h *host) command(ctx context.Context, script string) *topology.Cmd {
	return h.m.Command(ctx, "sh", "-euc", "export COLUMNS=80\ncd "+work+"\n"+script)
}

// limit bounds each block that ends by itself.
var limit = 3 * await.AnswerTime

// typed runs commands that end by themselves, with the answer to what they ask, and returns what they wrote.
func (h *host) typed(command, answer string, code int) string {
	h.t.Helper()
	c := h.command(await.Within(h.t, limit), command)
	c.Stdin = strings.NewReader(answer)
	output, err := c.CombinedOutput()
	if c.ProcessState == nil || c.ProcessState.ExitCode() != code {
		h.t.Errorf("%v, not exit code %d:\n%s\n%s", err, code, command, output)
	}
	return string(output)
}
