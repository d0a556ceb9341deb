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

	"replypath/test/harness"
	"replypath/test/topology"
)

const sshPort = 22

// sshServer is OpenSSH on the server, for root with a key of the test's own.
type sshServer struct {
	t   *testing.T
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
	s := &sshServer{t: t, n: n, dir: t.TempDir()}
	for _, name := range []string{"host", "key"} {
		output, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", s.path(name)).CombinedOutput()
		if err != nil {
			t.Fatalf("ssh-keygen: %v\n%s", err, output)
		}
	}
	// Where sshd's unprivileged part is shut in; the package's unit makes it.
	harness.Must(t, os.MkdirAll("/run/sshd", 0o755))
	config := fmt.Sprintf("Port %d\nHostKey %s\nAuthorizedKeysFile %s\nStrictModes no\nUsePAM no\nPidFile none\nPrintMotd no\n",
		sshPort, s.path("host"), s.path("key.pub"))
	for _, f := range n.Families() {
		config += fmt.Sprintf("ListenAddress %s\n", n.Server.Eth1.Address(f))
	}
	harness.Must(t, os.WriteFile(s.path("config"), []byte(config), 0o600))
	sshd := harness.StartProgram(t, n.Server.Command(t.Context(), program, "-D", "-e", "-f", s.path("config")), unix.SIGTERM)
	sshd.WaitLog(len(n.Families()), "Server listening")
	return s
}

func (s *sshServer) path(name string) string { return filepath.Join(s.dir, name) }

// session runs a command of the product in a terminal on the server, by way of eth1.
func (s *sshServer) session(p *harness.Product, f topology.Family, keyboard *os.File, args ...string) *harness.Program {
	s.t.Helper()
	command := append([]string{harness.Binary(), "--pin-dir", p.PinDir}, args...)
	c := s.n.Client.Command(s.t.Context(), "ssh", "-tt", "-F", "none", "-i", s.path("key"), "-p", fmt.Sprint(sshPort),
		"-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR",
		"root@"+s.n.Server.Eth1.Address(f).String(), strings.Join(command, " "))
	c.Stdin = keyboard
	return harness.StartProgram(s.t, c, unix.SIGTERM)
}

// answers matches what sshd sends.
func (s *sshServer) answers(f topology.Family) topology.Filter {
	return topology.All(topology.TCP, topology.From(s.n.Server.Eth1.Address(f)), topology.FromPort(sshPort))
}

// repeated matches what sshd sends once more, as nobody has acknowledged it.
func (s *sshServer) repeated(f topology.Family) topology.Filter {
	sent := make(map[uint32]bool)
	isAgain := func(frame *topology.Frame) bool {
		sequence := frame.Packet().Layer(layers.LayerTypeTCP).(*layers.TCP).Seq
		again := sent[sequence]
		sent[sequence] = true
		return again
	}
	return topology.All(s.answers(f), topology.Flags(topology.PSH, topology.PSH), isAgain)
}

// TestTryOverSSH tries over an ssh session on the very NIC whose replies are going to
// leave another way, in a terminal.
func TestTryOverSSH(t *testing.T) {
	n := newServer(t)
	p := harness.On(t, n.Server.Host)
	ssh := startSSH(t, n)
	r := newTried(t, n, p)
	for _, f := range n.Families() {
		t.Run(f.String()+" confirmed", func(t *testing.T) {
			keyboard, keys := newKeyboard(t)
			session := ssh.session(p, f, keyboard, "try", "--timeout", "60s")
			session.WaitLog(1, onTrial)
			wires := harness.Tap(t, n.Server)
			_, err := keys.Write([]byte("\r"))
			harness.Must(t, err)
			if code := session.WaitEnd(); code != 0 {
				t.Errorf("exit code %d:\n%s", code, session.Log)
			}
			frames := wires.WantEth1("the session", ssh.answers(f))
			r.wantBy(true)
			p.Detach()
			r.wantBack()
			t.Logf("the session goes on: %d of its frames by eth1 once it is on trial, 0 differences after detach", len(frames))
		})
		t.Run(f.String()+" not confirmed", func(t *testing.T) {
			keyboard, _ := newKeyboard(t)
			session := ssh.session(p, f, keyboard, "try", "--timeout", "2s")
			session.WaitLog(1, onTrial)
			session.WaitLog(1, "not confirmed within 2s: everything is as it was before")
			if code := session.WaitEnd(); code != 1 {
				t.Errorf("exit code %d:\n%s", code, session.Log)
			}
			t.Logf("host and pins are as before within %s of the end of the session, 0 differences", r.wantBack())
		})
		t.Run(f.String()+" terminal gone", func(t *testing.T) {
			keyboard, _ := newKeyboard(t)
			session := ssh.session(p, f, keyboard, "try", "--timeout", "1h")
			session.WaitLog(1, onTrial)
			session.Signal(unix.SIGKILL)
			session.WaitEnd()
			t.Logf("host and pins are as before within %s of the end of the session, 0 differences", r.wantBack())
		})
	}
}

// TestTryLocksOut tries what cuts its own session: the router of eth1 lets nothing
// out, so that only replies by eth0 arrive. What is typed shows no effect; when the
// time is over the session is there again, and tells.
func TestTryLocksOut(t *testing.T) {
	n := newServer(t)
	p := harness.On(t, n.Server.Host)
	ssh := startSSH(t, n)
	harness.Nft(t, n.Replication.Host, `table inet cut { chain forward {
		type filter hook forward priority 0; meta l4proto tcp tcp sport 22 drop; }; }`)
	r := newTried(t, n, p)
	for _, f := range n.Families() {
		t.Run(f.String(), func(t *testing.T) {
			cut := tryUnderCut(t, ssh, p, f)
			r.wantBack()
			t.Logf("a trial of 5s: the session is cut for %s, then back with what was typed, and the host as before, 0 differences", cut)
		})
	}
}

// tryUnderCut tries in a session that the trial cuts, and returns for how long it was.
func tryUnderCut(t *testing.T, ssh *sshServer, p *harness.Product, f topology.Family) time.Duration {
	t.Helper()
	keyboard, keys := newKeyboard(t)
	session := ssh.session(p, f, keyboard, "try", "--timeout", "5s")
	session.WaitLog(1, onTrial)
	wires := harness.Tap(t, ssh.n.Server)
	const typed = "hello?"
	_, err := keys.WriteString(typed)
	harness.Must(t, err)
	cut := time.Now()
	// The terminal's echo. Once it is sent again, the first one has had its time to arrive.
	_, err = wires.Eth1.Wait(harness.Within(t, harness.AnswerTime), ssh.repeated(f))
	harness.Must(t, err)
	if text := session.Log.String(); strings.Contains(text, typed) {
		t.Errorf("the session is not cut:\n%s", text)
	}
	session.WaitLog(1, "not confirmed within 5s: everything is as it was before")
	back := time.Now()
	if code := session.WaitEnd(); code != 1 {
		t.Errorf("exit code %d:\n%s", code, session.Log)
	}
	if text := session.Log.String(); !strings.Contains(text, typed) {
		t.Errorf("the echo is lost:\n%s", text)
	}
	return back.Sub(cut).Round(time.Millisecond)
}
