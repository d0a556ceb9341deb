// SPDX-License-Identifier: Apache-2.0

package packaging

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"replypath/loader/pins"
	"replypath/test/await"
	testhost "replypath/test/host"
	"replypath/test/product"
	"replypath/test/topology"
	"replypath/test/traffic"
	"replypath/test/wire"
)

// upgraded is the version of the image that takes the place of the first.
const upgraded = "9.9.9"

// TestImage runs the image in S1 as the install page says, with the capabilities of the unit and no others. The process
// is killed, started again, and replaced by a container of another version, and all the time no reply leaves by eth0.
func TestImage(t *testing.T) {
	s := traffic.NewS1(t, topology.S1Options{Policy: topology.AnySource})
	p := product.On(t, s.B.Host).WithPinDir(pins.DefaultDir)
	e := newEngine(t, s.B.Host)
	each(s, func(f topology.Family, kind traffic.Kind) {
		wire.WantBy(t, s.B, traffic.NewConversation(t, kind, s.A.Eth1, s.B.Eth1.Address(f)), false)
	})
	before := testhost.TakeSnapshot(t, s.B.Host, "eth0", "eth1")

	e.run(e.typed("load"))
	start := e.typed("run")
	e.run(start)
	version := regexp.MustCompile(`:([0-9.]+)$`).FindStringSubmatch(start)[1]
	e.waitRuns(p, version)
	e.wantUnitsCapabilities()
	e.run(e.typed("exec"))

	next := e.upgrade()
	w := startWatch(t, s)
	e.run("podman kill --signal KILL reply")
	e.waitEnded(p)
	w.goesOn()
	e.run("podman start reply")
	e.waitRuns(p, version)
	w.goesOn()
	e.run("podman load --input " + next)
	e.run("podman rm --force --time 10 reply")
	w.goesOn()
	e.run(strings.ReplaceAll(start, version, upgraded))
	e.waitRuns(p, upgraded)
	w.goesOn()
	t.Logf("killed, started again, upgraded from %s to %s: %s", version, upgraded, w.stop())

	e.run("podman rm --force --time 10 reply")
	e.run(strings.Replace(start, "--detach", "--rm", 1) + " detach")
	await.Same(t, "what has changed of the host", "", before.Diff(testhost.TakeSnapshot(t, s.B.Host, "eth0", "eth1")))
}

// each calls what is to be done for each family and kind of question.
func each(s *topology.S1, do func(topology.Family, traffic.Kind)) {
	for _, f := range s.Families() {
		for _, kind := range traffic.Kinds {
			do(f, kind)
		}
	}
}

// watch is what A asks B's eth1 without end, and what leaves B meanwhile.
type watch struct {
	t     *testing.T
	s     *topology.S1
	wires *wire.Wires
	talks []*traffic.Talk
}

func startWatch(t *testing.T, s *topology.S1) *watch {
	t.Helper()
	w := &watch{t: t, s: s, wires: wire.Tap(t, s.B)}
	each(s, func(f topology.Family, kind traffic.Kind) {
		c := traffic.NewConversation(t, kind, s.A.Eth1, s.B.Eth1.Address(f))
		traffic.Ask(t, c)
		w.talks = append(w.talks, c.Keep(t))
	})
	return w
}

// goesOn wants new conversations to be answered by eth1, too.
func (w *watch) goesOn() {
	w.t.Helper()
	each(w.s, func(f topology.Family, kind traffic.Kind) {
		wire.WantBy(w.t, w.s.B, traffic.NewConversation(w.t, kind, w.s.A.Eth1, w.s.B.Eth1.Address(f)), true)
	})
}

// stop ends the watch, and wants every question to be answered and every answer by eth1.
func (w *watch) stop() string {
	w.t.Helper()
	answers, frames, strays := 0, 0, 0
	for _, talk := range w.talks {
		answers += talk.Stop()
	}
	for _, f := range w.s.Families() {
		eth0, eth1 := w.wires.Left(topology.From(w.s.B.Eth1.Address(f)))
		frames += len(eth1)
		if strays += len(eth0); len(eth0) > 0 {
			w.t.Errorf("by the wrong NIC: %s", wire.Describe(eth0))
		}
	}
	return fmt.Sprintf("%d answers, %d frames by eth1, %d stray frames", answers, frames, strays)
}

// engine is podman on a host, with images and containers of its own.
type engine struct {
	t    *testing.T
	host *topology.Host
	dir  string
}

// engineConf leaves control groups and limits as the test's are: to set them needs rights that containers, where tests
// may run, do not have.
const engineConf = `[containers]
cgroups = "disabled"
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
log_driver = "k8s-file"
[engine]
cgroup_manager = "cgroupfs"
events_logger = "none"
runtime = "crun"
static_dir = "%[1]s/static"
tmp_dir = "%[1]s/tmp"
volume_path = "%[1]s/volumes"
`

const storageConf = `[storage]
driver = "vfs"
graphroot = "%[1]s/images"
runroot = "%[1]s/run"
`

func newEngine(t *testing.T, host *topology.Host) *engine {
	t.Helper()
	showCgroups(t)
	// Short, as a socket's path is.
	e := &engine{t: t, host: host, dir: await.Must1[string](t)(os.MkdirTemp("", "podman-"))}
	for name, text := range map[string]string{"containers.conf": engineConf, "storage.conf": storageConf} {
		await.Must(t, os.WriteFile(filepath.Join(e.dir, name), fmt.Appendf(nil, text, e.dir), 0o644))
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("log of the container:\n%s", e.try("podman logs reply"))
		}
		e.run("podman rm --force --all --time 0")
		await.Must(t, os.RemoveAll(e.dir))
	})
	return e
}

// showCgroups puts the second version of control groups where engines look for it, for this process and its children.
func showCgroups(t *testing.T) {
	t.Helper()
	const usual = "/sys/fs/cgroup"
	var there unix.Statfs_t
	await.Must(t, unix.Statfs(usual, &there))
	if there.Type != unix.CGROUP2_SUPER_MAGIC {
		await.Must(t, unix.Mount(usual+"/unified", usual, "", unix.MS_BIND, ""))
	}
}

// typed returns what the install page says to type that begins with a command of podman. The image is the release's.
func (e *engine) typed(command string) string {
	e.t.Helper()
	page := string(await.Must1[[]byte](e.t)(os.ReadFile(filepath.Join(checkout, "docs/guide/install.md"))))
	for _, b := range testhost.Blocks(page) {
		for _, typed := range strings.Split(strings.ReplaceAll(b.Text, "\\\n", ""), "\n") {
			if strings.HasPrefix(typed, "podman "+command+" ") {
				return strings.ReplaceAll(typed, "build/", release(e.t)+"/")
			}
		}
	}
	e.t.Fatalf("docs/guide/install.md does not say to type podman %s", command)
	return ""
}

// run runs a command on the host and wants success.
func (e *engine) run(command string) string {
	e.t.Helper()
	output, err := e.command(command).CombinedOutput()
	if err != nil {
		e.t.Fatalf("%s: %v\n%s", command, err, output)
	}
	return string(output)
}

// try is run, whatever comes of it.
func (e *engine) try(command string) string {
	output, err := e.command(command).CombinedOutput()
	return fmt.Sprintf("%s%v", output, err)
}

func (e *engine) command(command string) *topology.Cmd {
	c := e.host.Command(context.Background(), "timeout", "60", "sh", "-euc", command)
	c.Env = append(os.Environ(), "CONTAINERS_CONF="+e.dir+"/containers.conf", "CONTAINERS_STORAGE_CONF="+e.dir+"/storage.conf")
	return c
}

// upgrade makes the image of another version.
func (e *engine) upgrade() string {
	e.t.Helper()
	archive := filepath.Join(e.dir, "upgrade.oci.tar")
	run(e.t, "make", "--silent", "-C", checkout, "image", "ARCHITECTURES="+runtime.GOARCH, "VERSION="+upgraded, "IMAGE="+archive)
	return archive
}

// waitRuns waits until the container's process of a version has the datapath.
func (e *engine) waitRuns(p *product.Product, version string) {
	e.t.Helper()
	await.Eventually(e.t, version+" runs", func() error {
		if r := p.Run("status", "-o", "json"); r.Code != 0 {
			return fmt.Errorf("%s", r)
		}
		s := p.Status()
		if !s.Daemon.Running || s.Daemon.Version == nil || *s.Daemon.Version != version {
			return fmt.Errorf("%+v", s.Daemon)
		}
		return nil
	})
}

// waitEnded waits until no process has the datapath.
func (e *engine) waitEnded(p *product.Product) {
	e.t.Helper()
	await.Becomes(e.t, "the process runs", false, func() bool { return p.Status().Daemon.Running })
}

// wantUnitsCapabilities wants the container's process to have the capabilities that the unit grants, and no others.
func (e *engine) wantUnitsCapabilities() {
	e.t.Helper()
	unit := string(await.Must1[[]byte](e.t)(os.ReadFile("replypath.service")))
	granted := regexp.MustCompile(`(?m)^CapabilityBoundingSet=(.*)$`).FindStringSubmatch(unit)[1]
	numbers := map[string]int{"CAP_BPF": unix.CAP_BPF, "CAP_NET_ADMIN": unix.CAP_NET_ADMIN, "CAP_PERFMON": unix.CAP_PERFMON}
	set := uint64(0)
	for _, name := range strings.Fields(granted) {
		number, known := numbers[name]
		if !known {
			e.t.Fatalf("the unit grants %s, and the install page does not", name)
		}
		set |= 1 << number
	}
	pid := strings.TrimSpace(e.run("podman inspect --format '{{.State.Pid}}' reply"))
	status := string(await.Must1[[]byte](e.t)(os.ReadFile("/proc/" + pid + "/status")))
	await.Says(e.t, "status of the process", status,
		fmt.Sprintf("CapPrm:\t%016x\n", set), fmt.Sprintf("CapEff:\t%016x\n", set), fmt.Sprintf("CapBnd:\t%016x\n", set),
		"CapInh:\t0000000000000000\n", "CapAmb:\t0000000000000000\n", "NoNewPrivs:\t1\n",
	)
}
