// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"replypath/bpf"
	"replypath/test/await"
	"replypath/test/host"
	"replypath/test/product"
	"replypath/test/server"
	"replypath/test/topology"
	"replypath/test/traffic"
	"replypath/test/wire"
)

// nobody is a user without any rights (base-passwd's number).
const nobody = 65534

// asNobody has a program run as a user without any rights.
func asNobody(c *topology.Cmd) {
	c.SysProcAttr.Credential = &syscall.Credential{Uid: nobody, Gid: nobody}
}

// TestMissingKernelParts starts where something of the kernel is not to be
// found: exit code 1, the remedy, and nothing left behind.
func TestMissingKernelParts(t *testing.T) {
	n, p := server.NewExact(t)
	before := snapshot(t, n)
	elsewhere := p.WithPinDir(filepath.Join(t.TempDir(), "pins"))
	wantRefusal(t, elsewhere.Run("run"), "mount -t bpf", filepath.Dir(elsewhere.PinDir))
	if _, err := os.Stat(elsewhere.PinDir); !os.IsNotExist(err) {
		t.Errorf("%s was made: %v", elsewhere.PinDir, err)
	}
	wantRefusal(t, p.RunAs(inShell("mount -t tmpfs none /sys/kernel/btf"), "run"), "BTF")
	wantUntouched(t, n, p, before)
}

// TestHiddenBPFFS starts where something is mounted over the bpf file system, as ip netns exec does: what is pinned is
// pinned into that of the caller all the same, outlives the process, and can be seen and taken away from both sides.
func TestHiddenBPFFS(t *testing.T) {
	n, p := server.NewExact(t)
	before := snapshot(t, n)
	hidden := inShell("mount -t tmpfs none /sys/fs/bpf")
	d := p.LaunchAs(hidden)
	d.WaitReady()
	d.Kill()
	wantTCP(t, n, true)
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

func wantRefusal(t *testing.T, r *product.Result, words ...string) {
	t.Helper()
	if r.Code != 1 {
		t.Errorf("exit code %d, not 1: %s", r.Code, r)
	}
	wantOneLine(t, r, words...)
}

// wantUntouched wants the host as it was and nothing pinned.
func wantUntouched(t *testing.T, n *topology.TwoNIC, p *product.Product, before host.Snapshot) {
	t.Helper()
	await.Same(t, "the host has changed", before, snapshot(t, n))
	for _, pin := range host.Pins(t) {
		if strings.HasPrefix(pin, p.PinDir) {
			t.Errorf("%s was left", pin)
		}
	}
	wire.WantBy(t, n.Server, conversation(t, n, traffic.TCP, topology.IPv4), false)
}

// asRootOfNothing has a program run as a user without rights who has made himself root of a user namespace.
func asRootOfNothing(c *topology.Cmd) {
	asNobody(c)
	wrap("unshare", "--user", "--map-root-user", "--mount")(c)
}

// unprivileged are the ways to have no rights.
var unprivileged = map[string]func(*topology.Cmd){"nobody": asNobody, "root of a user namespace": asRootOfNothing}

// TestUnprivilegedUser tries to read and to alter what is pinned, by the product's own commands, by bpftool and by the
// file system: each is told that it has no right to, and nothing changes.
func TestUnprivilegedUser(t *testing.T) {
	binary := filepath.Join(os.TempDir(), "replypath-for-all") // the tree may be where nobody else gets: below /root
	await.Must(t, os.WriteFile(binary, await.Must1[[]byte](t)(os.ReadFile(product.Binary())), 0o755))
	t.Setenv(product.BinaryVariable, binary)
	n, p := server.NewExact(t)
	config := product.WriteConfig(t, product.SmallTables) // the whole of a table is shown
	p.Start("--config", config, "--listen", "")
	c := conversation(t, n, traffic.TCP, topology.IPv4)
	wire.WantBy(t, n.Server, c, true)
	if _, err := p.Scrape(); err == nil {
		t.Error("metrics are served, although they are switched off")
	}
	wantPrivate(t, p.PinDir)
	before, flows := host.Pins(t), len(p.Flows())
	for name, as := range unprivileged {
		tried := attempts(t, p)
		for _, attempt := range tried {
			as(attempt)
			output, err := attempt.CombinedOutput()
			if err == nil || !isDenied(string(output)) || bytes.Contains(output, []byte(c.Peer.Addr().String())) {
				t.Errorf("as %s: %v: %v\n%s", name, attempt.Args, err, output)
			}
		}
		t.Logf("as %s: %d attempts refused", name, len(tried))
	}
	await.Same(t, "pins", before, host.Pins(t))
	if status := p.Status(); status.Mode != "enforce" || !status.Daemon.Running || len(p.Flows()) != flows {
		t.Errorf("status %+v, %d flows", status, len(p.Flows()))
	}
	wire.WantBy(t, n.Server, c, true)
}

// productCommands read or alter what is pinned.
var productCommands = []string{
	"status", "flows", "flows flush", "explain --peer 192.0.2.1 --self 192.0.2.2", "trace --count 1",
	"mode", "mode observe", "detach", "detach --stop", "run",
}

// foreignCommands try the same without the product, with MODE for the map that holds the mode, by path and by ID.
var foreignCommands = []string{
	"ls PINS", "cat PINS/maps/control", "bpftool map dump pinned PINS/maps/flows", "bpftool map dump id MODE",
	"bpftool map update pinned PINS/maps/control key 0 0 0 0 value OBSERVE",
	"bpftool map update id MODE key 0 0 0 0 value OBSERVE",
	"bpftool map show", "bpftool prog show", "bpftool link show",
	"unshare --mount mount -t bpf bpf /mnt",
	"mkdir PINS/x", "chmod 755 PINS", "tc qdisc replace dev eth1 root pfifo", "ip link set eth1 down", "rm -rf PINS/maps", "mv PINS PINS-old",
}

// onPins fills in what belongs to a host.
func onPins(t *testing.T, p *product.Product, command string) string {
	t.Helper()
	m := await.Must1[*ebpf.Map](t)(ebpf.LoadPinnedMap(filepath.Join(p.PinDir, "maps", "control"), nil))
	defer m.Close()
	id, _ := await.Must1[*ebpf.MapInfo](t)(m.Info()).ID()
	observe := make([]byte, m.ValueSize())
	binary.NativeEndian.PutUint32(observe, uint32(bpf.DatapathModeMODE_OBSERVE))
	return strings.NewReplacer("PINS", p.PinDir, "MODE", fmt.Sprint(id), "OBSERVE", strings.Trim(fmt.Sprint(observe), "[]")).Replace(command)
}

// isDenied tells whether a message is about rights. bpftool takes a directory that it
// must not look into for one elsewhere.
func isDenied(message string) bool {
	return slices.ContainsFunc([]string{
		"ermission denied", "peration not permitted", "must be superuser", "this process lacks CAP_", "directory not in bpf file system",
	}, func(words string) bool { return strings.Contains(message, words) })
}

// attempts are all of these.
func attempts(t *testing.T, p *product.Product) (commands []*topology.Cmd) {
	t.Helper()
	ctx := await.Within(t, 6*await.AnswerTime)
	for _, command := range productCommands {
		commands = append(commands, p.Command(ctx, strings.Fields(command)...))
	}
	for _, command := range foreignCommands {
		commands = append(commands, p.Host.Command(ctx, "sh", "-c", onPins(t, p, command)))
	}
	return commands
}

// wantPrivate wants everything below a directory to be root's alone.
func wantPrivate(t *testing.T, dir string) {
	t.Helper()
	await.Must(t, filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := os.Stat(path)
		if err != nil {
			return err
		}
		if owner := info.Sys().(*syscall.Stat_t); info.Mode().Perm()&0o077 != 0 || owner.Uid != 0 || owner.Gid != 0 {
			t.Errorf("%s: %s of %d:%d", path, info.Mode(), owner.Uid, owner.Gid)
		}
		return nil
	}))
}

// TestMetricsOnLoopback wants the default listener to be out of the network's
// reach, which one that listens everywhere is not, and not to let anybody profile, or stop, the process.
func TestMetricsOnLoopback(t *testing.T) {
	n, p := server.NewExact(t)
	d := p.Start("--listen", ":9945")
	reached, tried := dialMetrics(t, n)
	await.Same(t, "addresses where the metrics are, if they are to be reached at all", tried, len(reached))
	d.Stop(unix.SIGTERM)
	p.Start()
	await.Must1[string](t)(p.Get("/healthz"))
	if reached, _ := dialMetrics(t, n); len(reached) > 0 {
		t.Errorf("the metrics can be reached at %q", reached)
	}
	paths := []string{
		"/debug", "/debug/", "/debug/pprof", "/debug/pprof/", "/debug/pprof/cmdline", "/debug/pprof/heap",
		"/debug/pprof/goroutine", "/debug/pprof/profile?seconds=1", "/debug/pprof/symbol", "/debug/pprof/trace",
		"/debug/vars", "/debug/requests", "/-/reload", "/-/quit",
	}
	for _, path := range paths {
		if body, err := p.Get(path); err == nil || !strings.Contains(err.Error(), "404") {
			t.Errorf("%s: %v %s", path, err, body)
		}
	}
	if page := await.Must1[string](t)(p.Get("/")); strings.Contains(page, "/debug") {
		t.Errorf("the landing page leads to profiles: %s", page)
	}
	if bytes.Contains(await.Must1[[]byte](t)(os.ReadFile(product.Binary())), []byte("net/http/pprof.")) {
		t.Error("the binary has net/http/pprof")
	}
	t.Logf("the metrics cannot be reached at any of %d addresses, where --listen :9945 is reached at %d; "+
		"%d paths of profiles and commands, none of which is there", tried, len(reached), len(paths))
}

// dialMetrics has the client connect to the metrics of the server, and returns at which of its addresses it can.
func dialMetrics(t *testing.T, n *topology.TwoNIC) (reached []string, tried int) {
	t.Helper()
	port := netip.MustParseAddrPort(product.MetricsAddress).Port()
	for _, i := range []*topology.Interface{n.Server.Eth0, n.Server.Eth1} {
		for _, f := range n.Families() {
			address := netip.AddrPortFrom(i.Address(f), port).String()
			tried++
			conn, err := n.Client.Dial(await.Within(t, await.AnswerTime), "tcp", address)
			switch {
			case err == nil:
				conn.Close()
				reached = append(reached, address)
			case !errors.Is(err, unix.ECONNREFUSED):
				t.Errorf("%s: %v", address, err)
			}
		}
	}
	return reached, tried
}
