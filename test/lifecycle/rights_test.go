// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"replypath/test/harness"
	"replypath/test/topology"
)

// nobody is a user without any rights (base-passwd's number).
const nobody = 65534

// needed are the capabilities, what has to be taken away besides to be without
// them, and words of what the error says that they are for.
var needed = []struct{ name, taken, purpose string }{
	{"CAP_NET_ADMIN", "-net_admin", "attach programs"},
	{"CAP_BPF", "-bpf,-sys_admin", "load programs"},
	{"CAP_PERFMON", "-perfmon,-sys_admin", "sockets"},
}

// TestMissingCapability names what the process lacks and what for, and attaches
// nothing.
func TestMissingCapability(t *testing.T) {
	n := newServer(t)
	p := harness.On(t, n.Server.Host)
	before := snapshot(t, n)
	unprivileged := p.RunAs(asNobody, "run")
	for _, c := range needed {
		wantRefusal(t, unprivileged, c.name, c.purpose)
		r := p.RunAs(wrap("setpriv", "--bounding-set="+c.taken, "--inh-caps="+c.taken), "run")
		wantRefusal(t, r, c.name, c.purpose)
		for _, other := range needed {
			if other.name != c.name && strings.Contains(r.Stderr, other.name) {
				t.Errorf("only %s is missing: %s", c.name, r)
			}
		}
	}
	wantUntouched(t, n, p, before)
}

// asNobody has a program run as a user without any rights.
func asNobody(c *topology.Cmd) {
	c.SysProcAttr.Credential = &syscall.Credential{Uid: nobody, Gid: nobody}
}

// TestFewestCapabilities runs with nothing but what it says that it needs.
func TestFewestCapabilities(t *testing.T) {
	n := newServer(t)
	p := harness.On(t, n.Server.Host)
	const needed = "-all,+net_admin,+bpf,+perfmon"
	d := p.LaunchAs(wrap("setpriv", "--bounding-set="+needed, "--inh-caps="+needed))
	d.WaitReady()
	for _, f := range n.Families() {
		harness.WantBy(t, n.Server, conversation(t, n, harness.TCP, f), true)
	}
	harness.Must1[string](t)(p.Get("/healthz"))
}

// TestMissingKernelParts starts where something of the kernel is not to be
// found: exit code 1, the remedy, and nothing left behind.
func TestMissingKernelParts(t *testing.T) {
	n := newServer(t)
	p := harness.On(t, n.Server.Host)
	before := snapshot(t, n)
	elsewhere := p.WithPinDir(filepath.Join(t.TempDir(), "pins"))
	wantRefusal(t, elsewhere.Run("run"), "mount -t bpf", filepath.Dir(elsewhere.PinDir))
	if _, err := os.Stat(elsewhere.PinDir); !os.IsNotExist(err) {
		t.Errorf("%s was made: %v", elsewhere.PinDir, err)
	}
	wantRefusal(t, p.RunAs(inShell("mount -t tmpfs none /sys/kernel/btf"), "run"), "BTF")
	wantUntouched(t, n, p, before)
}

// TestHiddenBPFFS starts where something is mounted over the bpf file system, as
// ip netns exec does: what is pinned is pinned into that of the caller all the
// same, outlives the process, and can be seen and taken away from both sides.
func TestHiddenBPFFS(t *testing.T) {
	n := newServer(t)
	p := harness.On(t, n.Server.Host)
	before := snapshot(t, n)
	hidden := inShell("mount -t tmpfs none /sys/fs/bpf")
	d := p.LaunchAs(hidden)
	d.WaitReady()
	d.Kill()
	for _, f := range n.Families() {
		harness.WantBy(t, n.Server, conversation(t, n, harness.TCP, f), true)
	}
	if !p.Status().Interfaces[0].Attached {
		t.Error("what is attached cannot be seen from outside")
	}
	if r := p.RunAs(hidden, "detach"); r.Code != 0 {
		t.Errorf("detach: %s", r)
	}
	wantUntouched(t, n, p, before)
}

// wrap has a program started by another one.
func wrap(program string, args ...string) func(*topology.Cmd) {
	return func(c *topology.Cmd) {
		c.Args = append(append([]string{program}, args...), c.Args...)
		c.Path, c.Err = exec.LookPath(program)
	}
}

// inShell has a program started after a command, in a mount namespace of its own.
func inShell(command string) func(*topology.Cmd) {
	return func(c *topology.Cmd) {
		c.SysProcAttr.Unshareflags |= syscall.CLONE_NEWNS
		wrap("sh", "-c", command+` && exec "$@"`, "sh")(c)
	}
}

func wantRefusal(t *testing.T, r *harness.Result, words ...string) {
	t.Helper()
	if r.Code != 1 {
		t.Errorf("exit code %d, not 1: %s", r.Code, r)
	}
	wantOneLine(t, r, words...)
}

// wantUntouched wants the host as it was and nothing pinned.
func wantUntouched(t *testing.T, n *topology.TwoNIC, p *harness.Product, before harness.Snapshot) {
	t.Helper()
	if diff := before.Diff(snapshot(t, n)); diff != "" {
		t.Errorf("the host has changed (-before +after):\n%s", diff)
	}
	for _, pin := range harness.Pins(t) {
		if strings.HasPrefix(pin, p.PinDir) {
			t.Errorf("%s was left", pin)
		}
	}
	harness.WantBy(t, n.Server, conversation(t, n, harness.TCP, topology.IPv4), false)
}
