// SPDX-License-Identifier: Apache-2.0

package restarts

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gopacket/gopacket/layers"
	"golang.org/x/sys/unix"

	"replypath/test/await"
	"replypath/test/host"
	"replypath/test/product"
	"replypath/test/server"
	"replypath/test/topology"
	"replypath/test/wire"
)

const sshPort = 22

// sshServer is OpenSSH on the server, for root with a key of the test's own.
type sshServer struct {
	n   *topology.TwoNIC
	dir string
}

// startSSH starts sshd at the addresses of eth1.
func startSSH(t *testing.T, n *topology.TwoNIC) *sshServer {
	t.Helper()
	program, err := exec.LookPath("/usr/sbin/sshd")
	if err != nil {
		t.Fatalf("%v: run test/install-packages.sh", err)
	}
	s := &sshServer{n: n, dir: t.TempDir()}
	for _, name := range []string{"host", "key"} {
		host.Shell(t, n.Server.Host, "ssh-keygen -q -t ed25519 -N '' -f "+s.path(name))
	}
	// Where sshd's unprivileged part is shut in; the package's unit makes it.
	await.Must(t, os.MkdirAll("/run/sshd", 0o755))
	config := fmt.Sprintf("Port %d\nHostKey %s\nAuthorizedKeysFile %s\nStrictModes no\nUsePAM no\nPidFile none\nPrintMotd no\n",
		sshPort, s.path("host"), s.path("key.pub"))
	for _, f := range n.Families() {
		config += fmt.Sprintf("ListenAddress %s\n", n.Server.Eth1.Address(f))
	}
	await.Must(t, os.WriteFile(s.path("config"), []byte(config), 0o600))
	sshd := product.StartProgram(t, n.Server.Command(t.Context(), program, "-D", "-e", "-f", s.path("config")), unix.SIGTERM)
	sshd.WaitLog(len(n.Families()), "Server listening")
	return s
}

func (s *sshServer) path(name string) string { return filepath.Join(s.dir, name) }

// try tries in a terminal on the server, by way of eth1, until that can be confirmed.
func (s *sshServer) try(t *testing.T, p *product.Product, f topology.Family, timeout string) (session *product.Program, keys *os.File) {
	t.Helper()
	keyboard, keys := newKeyboard(t)
	c := s.n.Client.Command(t.Context(), "ssh", "-tt", "-F", "none", "-i", s.path("key"), "-p", fmt.Sprint(sshPort),
		"-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR",
		"root@"+s.n.Server.Eth1.Address(f).String(),
		strings.Join([]string{product.Binary(), "--pin-dir", p.PinDir, "try", "--timeout", timeout}, " "))
	c.Stdin = keyboard
	session = product.StartProgram(t, c, unix.SIGTERM)
	session.WaitLog(1, onTrial)
	return session, keys
}

// answers matches what sshd sends.
func (s *sshServer) answers(f topology.Family) topology.Filter {
	return topology.All(topology.TCP, topology.From(s.n.Server.Eth1.Address(f)), topology.FromPort(sshPort))
}

// repeated matches what sshd sends once more, as nobody has acknowledged it.
func (s *sshServer) repeated(f topology.Family) topology.Filter {
	sent := make(map[uint32]bool)
	return topology.All(s.answers(f), topology.Flags(topology.PSH, topology.PSH), func(frame *topology.Frame) bool {
		sequence := frame.Packet().Layer(layers.LayerTypeTCP).(*layers.TCP).Seq
		again := sent[sequence]
		sent[sequence] = true
		return again
	})
}

// wantEnd wants a session to end with a code, and to have said the words before.
func wantEnd(t *testing.T, session *product.Program, code int, words ...string) {
	t.Helper()
	session.WaitLog(1, words...)
	session.WantEnd(code)
}

// TestTryOverSSH tries over an ssh session on the very NIC whose replies are going to leave another way, in a terminal.
// TestTryLocksOut has nobody confirm it.
func TestTryOverSSH(t *testing.T) {
	n, p := server.New(t)
	ssh := startSSH(t, n)
	r := newTried(t, n, p)
	for _, f := range n.Families() {
		t.Run(f.String()+" confirmed", func(t *testing.T) {
			session, keys := ssh.try(t, p, f, "60s")
			wires := wire.Tap(t, n.Server)
			await.Must1[int](t)(keys.WriteString("\r"))
			wantEnd(t, session, 0)
			frames := wires.WantEth1("the session", ssh.answers(f))
			r.wantBy(true)
			p.Detach()
			r.wantBack()
			t.Logf("the session goes on: %d of its frames by eth1 once it is on trial, 0 differences after detach", len(frames))
		})
		t.Run(f.String()+" terminal gone", func(t *testing.T) {
			session, _ := ssh.try(t, p, f, "1h")
			session.Signal(unix.SIGKILL)
			session.WaitEnd()
			t.Logf("host and pins are as before within %s of the end of the session, 0 differences", r.wantBack())
		})
	}
}

// TestTryLocksOut tries what cuts its own session: the router of eth1 lets nothing out, so that only replies by eth0
// arrive. What is typed shows no effect; when the time is over the session is there again, and tells.
func TestTryLocksOut(t *testing.T) {
	n, p := server.New(t)
	ssh := startSSH(t, n)
	host.Nft(t, n.Replication.Host, `table inet cut { chain forward {
		type filter hook forward priority 0; meta l4proto tcp tcp sport 22 drop; }; }`)
	r := newTried(t, n, p)
	for _, f := range n.Families() {
		t.Run(f.String(), func(t *testing.T) {
			session, keys := ssh.try(t, p, f, "3s")
			wires := wire.Tap(t, n.Server)
			const typed = "hello?"
			await.Must1[int](t)(keys.WriteString(typed))
			cut := time.Now()
			// The terminal's echo. Once it is sent again, the first one has had its time to arrive.
			_, err := wires.Eth1.Wait(await.Within(t, await.AnswerTime), ssh.repeated(f))
			await.Must(t, err)
			if text := session.Log.String(); strings.Contains(text, typed) {
				t.Errorf("the session is not cut:\n%s", text)
			}
			wantEnd(t, session, 1, "not confirmed within 3s: everything is as it was before")
			back := time.Since(cut)
			if text := session.Log.String(); !strings.Contains(text, typed) {
				t.Errorf("the echo is lost:\n%s", text)
			}
			r.wantBack()
			t.Logf("a trial of 3s: the session is back after %s with what was typed, and the host as before, 0 differences",
				back.Round(time.Millisecond))
		})
	}
}
