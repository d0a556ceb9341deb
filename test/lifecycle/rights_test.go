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

// TestMissingCapability names what the process lacks, and attaches nothing.
func TestMissingCapability(t *testing.T) {
	n := newServer(t)
	p := harness.On(t, n.Server.Host)
	before := snapshot(t, n)
	asNobody := p.RunAs(func(c *topology.Cmd) {
		c.SysProcAttr.Credential = &syscall.Credential{Uid: nobody, Gid: nobody}
	}, "run")
	wantRefusal(t, asNobody, "CAP_NET_ADMIN", "CAP_BPF")
	for _, missing := range []struct{ drop, name string }{
		{"-net_admin", "CAP_NET_ADMIN"},
		{"-bpf,-sys_admin", "CAP_BPF"},
		{"-perfmon,-sys_admin", "CAP_PERFMON"},
	} {
		wantRefusal(t, p.RunAs(wrap("setpriv", "--bounding-set="+missing.drop, "--inh-caps="+missing.drop), "run"), missing.name)
	}
	wantUntouched(t, n, p, before)
}

// TestFewestCapabilities runs with nothing but what it says that it needs.
func TestFewestCapabilities(t *testing.T) {
	n := newServer(t)
	p := harness.On(t, n.Server.Host)
	const needed = "-all,+net_admin,+bpf,+perfmon"
	d := p.LaunchAs(wrap("setpriv", "--bounding-set="+needed, "--inh-caps="+needed))
	d.WaitReady()
	for _, f := range n.Families() {
		wantBy(t, n, conversation(t, n, harness.TCP, f), true)
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
		wantBy(t, n, conversation(t, n, harness.TCP, f), true)
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
	wantBy(t, n, conversation(t, n, harness.TCP, topology.IPv4), false)
}
