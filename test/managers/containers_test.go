// SPDX-License-Identifier: Apache-2.0

package managers

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"replypath/test/await"
	"replypath/test/host"
	"replypath/test/product"
	"replypath/test/server"
	"replypath/test/topology"
	"replypath/test/traffic"
	"replypath/test/wire"
)

// furnishContainers makes a machine's file systems a container engine's. What it writes is gone with its processes. It
// finds none of the real machine's images, networks and settings. It can change the kernel's settings of the network
// alone, and loads no module.
const furnishContainers = `
copied /etc /var
for dir in /etc/cni/net.d /etc/containers/networks /etc/docker /var/lib/cni /var/lib/containers /var/lib/docker; do
	mkdir -p $dir
	mount -t tmpfs -o mode=755 tmpfs $dir
done
mount -t tmpfs tmpfs /dev/shm
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t proc proc /proc
mount --bind /proc/sys /proc/sys
mount -o remount,bind,ro /proc/sys
mount --bind /proc/sys/net /proc/sys/net
mount -o remount,bind,rw /proc/sys/net
if [ -e /sbin/modprobe ]; then mount --bind /bin/true /sbin/modprobe; fi
`

// engine is a container engine on a server, with processes and control groups of its own.
type engine struct {
	*machine
	n *topology.TwoNIC
	// cli are the command and its first arguments; podman and Docker have the others in common.
	cli []string
	// ports are those that it publishes.
	ports []int
}

// startEngine runs a command that an engine needs, and returns when it has logged that it is ready.
func startEngine(t *testing.T, n *topology.TwoNIC, cli []string, first, ready string) *engine {
	t.Helper()
	c := n.Server.Command(context.Background(), "unshare", "--mount", "--propagation", "private", "--cgroup",
		"sh", "-ec", furnish+copied+furnishContainers+"exec tini -- "+first)
	c.SysProcAttr.Cloneflags |= unix.CLONE_NEWPID | unix.CLONE_NEWIPC
	c.SysProcAttr.UseCgroupFD, c.SysProcAttr.CgroupFD = true, int(host.NewCgroup(t).Fd())
	holder := product.StartProgram(t, c, unix.SIGKILL)
	holder.WaitLog(1, ready)
	enter := []string{"--target=" + strconv.Itoa(holder.PID()), "--mount", "--pid", "--ipc"}
	return &engine{machine: &machine{t: t, host: n.Server.Host, enter: enter}, n: n, cli: cli}
}

// do runs a command of the engine.
func (e *engine) do(command string) {
	e.t.Helper()
	e.run(slices.Concat(e.cli, strings.Fields(command))...)
}

// load makes the image, from nothing but its program.
func (e *engine) load() {
	e.t.Helper()
	dir := e.t.TempDir()
	c := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w", "-o", dir, "./echo")
	c.Env = append(os.Environ(), "CGO_ENABLED=0")
	if output, err := c.CombinedOutput(); err != nil {
		e.t.Fatalf("build the program of the image: %v\n%s", err, output)
	}
	e.run("sh", "-ec", "tar -C "+dir+" -c echo | "+strings.Join(e.cli, " ")+" import - echo")
}

// publish starts a container and publishes its port.
func (e *engine) publish(port int, options string) {
	e.t.Helper()
	e.ports = append(e.ports, port)
	e.do(fmt.Sprintf("run --detach --publish %[1]d:7/tcp --publish %[1]d:7/udp %[2]s echo /echo", port, options))
}

// asked prepares a conversation with a published port of an address of the server. Pings are answered by the host.
func (e *engine) asked(t testing.TB, kind traffic.Kind, at netip.Addr, port int) *traffic.Conversation {
	t.Helper()
	c := traffic.NewConversation(t, kind, e.n.ClientEth0, at)
	if kind != traffic.Ping {
		c.Self = netip.AddrPortFrom(c.Self.Addr(), uint16(port))
	}
	return c
}

// each runs a subtest for each published port, family and kind of question.
func (e *engine) each(name string, at *topology.Interface, want func(testing.TB, *topology.Server, *traffic.Conversation)) {
	e.t.Helper()
	for _, port := range e.ports {
		traffic.EachQuestionOf(e.t, e.n.Families(), fmt.Sprintf("%s/port %d", name, port),
			func(t *testing.T, f topology.Family, kind traffic.Kind) {
				want(t, e.n.Server, e.asked(t, kind, at.Address(f), port))
			})
	}
}

// wantServed asks published ports without replypath, and wants the answers lost as said. With it each leaves by the
// interface that was asked, also while containers and networks come and go. Devices of such names are not managed.
func (e *engine) wantServed(lost func(testing.TB, *topology.Server, *traffic.Conversation), devices ...string) {
	e.t.Helper()
	e.each("without replypath", e.n.Server.Eth1, lost)
	p, d := product.StartOn(e.t, e.n.Server.Host)
	e.each("with replypath", e.n.Server.Eth1, wire.WantByEth1)
	e.each("eth0 is asked", e.n.Server.Eth0, func(t testing.TB, s *topology.Server, c *traffic.Conversation) {
		t.Helper()
		wire.WantBy(t, s, c, false)
	})
	wantNotManaged(e.t, p, devices)
	own := e.routes(ownProtocol)
	e.comeAndGo()
	wantRoutes(e.t, "replypath's routes", e.routes(ownProtocol), own)
	await.Same(e.t, "settings and routes of replypath that were made again", 0, p.Metrics().Sum("replypath_host_repairs_total"))
	if lines := append(d.Log.Lines("level=WARN"), d.Log.Lines("level=ERROR")...); len(lines) > 0 {
		e.t.Errorf("complaints in the log: %q", lines)
	}
	wantManaged(e.t, p)
	for _, f := range p.Doctor(0) {
		await.Same(e.t, fmt.Sprintf("severity, beside the engine, of %+v", f), "ok", f.Severity)
	}
}

// wantNotManaged wants devices whose names begin so, and neither them nor others to be managed beside both interfaces.
func wantNotManaged(t *testing.T, p *product.Product, devices []string) {
	t.Helper()
	status := p.Status()
	for _, device := range devices {
		is := func(u struct{ Name, Reason string }) bool { return strings.HasPrefix(u.Name, device) }
		if !slices.ContainsFunc(status.Unmanaged, is) {
			t.Errorf("no %s in %+v", device, status.Unmanaged)
		}
	}
	await.Same(t, "managed", 2, status.Managed())
}

// comeAndGo makes and removes containers and networks beside conversations with published ports. Each container opens a
// connection, which leaves as routed.
func (e *engine) comeAndGo() {
	e.t.Helper()
	client := netip.AddrPortFrom(e.n.ClientEth0.Address(topology.IPv4), traffic.EchoPort)
	traffic.ServeAt(e.t, e.n.Client, client)
	wires := wire.Tap(e.t, e.n.Server)
	var asked []*traffic.Conversation
	for _, port := range e.ports {
		for _, f := range e.n.Families() {
			for _, kind := range traffic.Kinds {
				asked = append(asked, e.asked(e.t, kind, e.n.Server.Eth1.Address(f), port))
			}
		}
	}
	talks := server.Keep(e.t, e.n.Server, asked...)
	const rounds = 2
	for range rounds {
		e.do("network create other")
		e.do(fmt.Sprint("run --rm --network other echo /echo ", client))
		e.do("network rm other")
		e.do(fmt.Sprint("run --rm echo /echo ", client))
	}
	answers := talks.End()
	opened := wires.WantEth0("connections that containers open", topology.All(topology.To(client.Addr()), topology.TCP,
		topology.ToPort(client.Port()), topology.Flags(topology.SYN|topology.ACK, topology.SYN)))
	e.t.Logf("%d containers and %d networks made and removed, %d frames of answers meanwhile by eth1, %d connections opened by eth0",
		2*rounds, rounds, answers, len(opened))
}

// dockerd keeps images in plain directories, as its file system may be an overlay already. Where a network has IPv6
// addresses, they are translated too.
const dockerd = "dockerd --storage-driver=vfs --experimental --ip6tables"

const (
	// translated is a port of a network with addresses of both families.
	translated = 80
	// proxied is a port of Docker's usual network, which has no IPv6: docker-proxy takes what arrives by it.
	proxied = 81
)

// TestDocker publishes ports of Docker's containers.
func TestDocker(t *testing.T) {
	n, _ := newServer(t)
	// Another Docker's may come first in PATH.
	e := startEngine(t, n, []string{"/usr/bin/docker", "--host=unix:///run/docker.sock"}, dockerd, "API listen on")
	e.load()
	e.do("network create --ipv6 --subnet 10.17.0.0/24 --subnet 2001:db8:17::/64 both")
	e.publish(translated, "--network both")
	e.publish(proxied, "")
	e.wantServed(wantLostOrStrange, "docker0", "br-", "veth")
}

// wantLostOrStrange is harness.WantLost, but for datagrams of docker-proxy: they come from the address of eth0.
func wantLostOrStrange(t testing.TB, s *topology.Server, c *traffic.Conversation) {
	t.Helper()
	if c.Kind != traffic.UDP || c.Self.Addr().Is4() || c.Self.Port() != proxied {
		wire.WantLost(t, s, c)
		return
	}
	wires := wire.Tap(t, s)
	strange := c.Behind(s.Eth0.Address(topology.IPv6)).Answers()
	if err := wire.AskUntilLost(t, c, wires.Eth0, strange); err == nil {
		t.Errorf("%s was answered", c)
	}
	wires.WantEth0(c.String()+", from another address", strange)
}

// podmanConf leaves control groups and limits as the test's are: to set them needs rights that containers, where tests
// may run, do not have.
const podmanConf = `[containers]
cgroups = "disabled"
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
log_driver = "k8s-file"
[engine]
cgroup_manager = "cgroupfs"
events_logger = "none"
[network]
network_backend = %q
`

const podmanStorage = `[storage]
driver = "vfs"
graphroot = "/var/lib/containers/storage"
runroot = "/run/containers/storage"
`

func startPodman(t *testing.T, n *topology.TwoNIC, backend string) *engine {
	t.Helper()
	e := startEngine(t, n, []string{"podman"}, "sh -c 'echo furnished; exec sleep infinity'", "furnished")
	e.write("/etc/containers/containers.conf", fmt.Sprintf(podmanConf, backend))
	e.write("/etc/containers/storage.conf", podmanStorage)
	e.load()
	return e
}

// TestPodman publishes a port of a podman container, whose network netavark makes or CNI plugins.
func TestPodman(t *testing.T) {
	for backend, bridge := range map[string]string{"netavark": "podman", "cni": "cni-podman"} {
		t.Run(backend, func(t *testing.T) {
			n, _ := newServer(t)
			e := startPodman(t, n, backend)
			e.do("network create --ipv6 --subnet 10.17.0.0/24 --subnet 2001:db8:17::/64 both")
			e.publish(80, "--network both")
			e.wantServed(wire.WantLost, bridge, "veth")
		})
	}
}
