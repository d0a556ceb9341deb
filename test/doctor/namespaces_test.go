// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"replypath/test/await"
	"replypath/test/host"
	"replypath/test/product"
	"replypath/test/server"
	"replypath/test/topology"
)

// promptly is half of what doctor waits for a detach that is under way, as here none is.
const promptly = 5 * time.Second

// examines has doctor examine a host by a command that the test prepares, and wants its answer promptly, with an exit
// code. Lines are long, so that words can be looked for.
func examines(t *testing.T, p *product.Product, code int, prepare func(*topology.Cmd), args ...string) *product.Result {
	t.Helper()
	begun := time.Now()
	result := p.RunAs(func(c *topology.Cmd) {
		prepare(c)
		c.Env = append(c.Environ(), "COLUMNS=1000")
	}, append([]string{"doctor"}, args...)...)
	if took := time.Since(begun); took > await.Patient(promptly) {
		t.Errorf("it took %s: %s", took, result)
	}
	if result.Code != code {
		t.Errorf("exit %d, not %d: %s", result.Code, code, result)
	}
	return result
}

// wantSaid wants a result to say all of the words.
func wantSaid(t *testing.T, result *product.Result, words ...string) {
	t.Helper()
	for _, word := range words {
		if !strings.Contains(result.Stdout+result.Stderr, word) {
			t.Errorf("it does not say %q: %s", word, result)
		}
	}
}

// by has a command be run by another one.
func by(t *testing.T, args ...string) func(*topology.Cmd) {
	return func(c *topology.Cmd) {
		c.Path = await.Must1[string](t)(exec.LookPath(args[0]))
		c.Args = append(append([]string{}, args...), c.Args...)
	}
}

func here(*topology.Cmd) {}

func inPIDNamespace(c *topology.Cmd) { c.SysProcAttr.Cloneflags |= unix.CLONE_NEWPID }

// contained runs a command as a container does, in a mount and a PID namespace of its own.
func contained(t *testing.T) func(*topology.Cmd) {
	return by(t, "unshare", "--pid", "--fork", "--kill-child", "--mount", "--mount-proc")
}

// TestDaemonInPIDNamespace has a daemon that does not come to put a program back: the first process of a PID namespace,
// or one of the host. From outside it is the daemon that it says it is; where it cannot be seen, that is said, and
// nothing is waited for.
func TestDaemonInPIDNamespace(t *testing.T) {
	for name, start := range map[string]func(*topology.Cmd){"contained": inPIDNamespace, "of the host": here} {
		t.Run(name, func(t *testing.T) {
			n, p := server.New(t)
			d := p.LaunchAs(start, "--mechanism", "clsact")
			d.WaitReady()
			examines(t, p, 0, here)
			examines(t, p, 0, contained(t))
			d.Signal(unix.SIGSTOP)
			host.Shell(t, n.Server.Host, "tc filter del dev eth1 egress")
			wantSaid(t, examines(t, p, 3, contained(t)),
				"no program of replypath at egress, and the daemon, in a PID namespace that cannot be looked into from here, has not put it back",
				"replypath doctor --pin-dir "+p.PinDir+"  # where the daemon runs")
			wantSaid(t, examines(t, p, 3, here), "no program of replypath at egress: a running daemon puts it back within a second")
			d.Signal(unix.SIGCONT)
		})
	}
}

// TestConfigInMountNamespace: the configuration in force is what the daemon has loaded, from a file that need not be
// the one here. Where it is another one, or none, doctor says so.
func TestConfigInMountNamespace(t *testing.T) {
	n, p := server.New(t)
	config := product.WriteConfig(t, "loopback_addresses: kernel\n")
	host.Shell(t, n.Server.Host, "ip address add 10.0.0.1/32 dev lo")
	dir := filepath.Dir(config)
	hide := `mount -t tmpfs tmpfs "$0"; `
	inside := func(script string) func(*topology.Cmd) {
		return by(t, "unshare", "--mount", "sh", "-ec", hide+script+`; exec "$@"`, dir)
	}
	inForce := func(prepare func(*topology.Cmd), severity string, words ...string) {
		t.Helper()
		all := examineAs(t, p, 0, prepare)
		onlyOne(t, all, "configuration", "", severity, words...)
		onlyOne(t, all, "loopback-address", "", "ok", "loopback_addresses: symmetric")
	}
	d := p.LaunchAs(inside(`echo "loopback_addresses: symmetric" >"$0/replypath.yaml"`), "--config", config)
	d.WaitReady()
	theirs := fmt.Sprintf("/proc/%d/root%s", d.PID(), config)
	another := fmt.Sprintf("%s: it is not the file of the daemon, pid %d, which runs in another mount namespace and has %s", config, d.PID(), theirs)
	inForce(here, "warning", another)
	inForce(inside(":"), "warning", another)
	inForce(by(t, "nsenter", fmt.Sprintf("--target=%d", d.PID()), "--mount"), "ok", config)
	examines(t, p, 0, here, "--config", theirs)
	onlyOne(t, p.Doctor(0, "--config", config), "loopback-address", "", "ok", "loopback_addresses: kernel")
	d.Kill()
	inForce(inside(":"), "warning", config, "it is gone")

	host.Shell(t, n.Server.Host, "echo 'loopback_addresses: symmetric' >"+config)
	e := p.Start("--config", config)
	inForce(here, "ok", config)
	inForce(by(t, "unshare", "--pid", "--fork", "--kill-child", "--mount", "--mount-proc", "sh", "-ec", hide+`exec "$@"`, dir), "warning",
		config+": it is not here, and the daemon is in a PID namespace that cannot be looked into from here")
	e.Kill()
}
