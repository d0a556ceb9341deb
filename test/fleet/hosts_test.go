// SPDX-License-Identifier: Apache-2.0

package fleet

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"replypath/test/await"
	testhost "replypath/test/host"
	"replypath/test/product"
	"replypath/test/topology"
	"replypath/test/traffic"
	"replypath/test/wire"
)

// fleet are three servers that systemd has booted, each with two interfaces and OpenSSH, and a controller behind the
// router of their production network. Routers drop what has a source that does not belong where it comes from.
type fleet struct {
	t          *testing.T
	s          *topology.S1
	controller *topology.Interface
	servers    []server
	dir        string // of the controller: a checkout, as far as commands need one
}

// server is one of the servers, under the name that the controller knows it by.
type server struct {
	*topology.Server
	m    *testhost.Machine
	name string
}

// The controller's network, and those of the third server, as the networks of the others are numbered.
var (
	controllerAddress = netip.MustParsePrefix("10.9.0.100/24")
	controllerGateway = netip.MustParsePrefix("10.9.0.1/24")

	thirdProduction, thirdProductionGateway   = netip.MustParsePrefix("10.5.0.100/24"), netip.MustParsePrefix("10.5.0.1/24")
	thirdReplication, thirdReplicationGateway = netip.MustParsePrefix("10.6.0.100/24"), netip.MustParsePrefix("10.6.0.1/24")
)

// served is what clients ask, beside the echo.
const served = 5432

// newFleet boots the servers.
func newFleet(t *testing.T) *fleet {
	t.Helper()
	s := traffic.NewS1(t, topology.S1Options{Policy: topology.StrictSource, NoStaticRoute: true, NoIPv6: true})
	f := &fleet{t: t, s: s, dir: t.TempDir()}
	f.controller = f.connect("controller", s.Production, "eth0", controllerAddress, controllerGateway)
	third := &topology.Server{Eth0: f.connect("c", s.Production, "eth0", thirdProduction, thirdProductionGateway)}
	third.Host = third.Eth0.Host
	third.Eth1 = f.plug(third.Host, s.Replication, "eth1", thirdReplication, thirdReplicationGateway)
	await.Must(t, f.s.WaitReady(await.Within(t, await.AnswerTime)))
	await.Must(t, third.Eth0.Resolve(await.Within(t, await.AnswerTime), thirdProductionGateway.Addr()))
	traffic.Serve(t, s.A.Host, s.A.Eth1.Address(topology.IPv4))
	traffic.Serve(t, third.Host, third.Eth1.Address(topology.IPv4))
	for i, host := range []*topology.Server{s.A, s.B, third} {
		traffic.ServeAt(t, host.Host, netip.AddrPortFrom(host.Eth1.Address(topology.IPv4), served))
		f.servers = append(f.servers, server{Server: host, m: testhost.NewMachine(t, host.Host), name: fmt.Sprintf("db%03d", i+1)})
	}
	for _, host := range f.servers {
		host.m.Boot()
	}
	f.makeKeys()
	for _, host := range f.servers {
		host.m.WaitBooted()
		// The others' is the same for all machines. This one lasts as long as the machine.
		host.m.Run("mount", "-t", "bpf", "bpf", "/sys/fs/bpf")
		host.m.Run("rm", "-f", "/usr/bin/replypath") // where the real machine has one
		// It knows no archive: apt would read all that the real one's has, each time.
		host.m.Run("mount", "-t", "tmpfs", "tmpfs", "/var/lib/apt/lists")
		f.startSSH(host)
	}
	return f
}

func (f *fleet) path(name string) string { return filepath.Join(f.dir, name) }

// connect makes a host that has its default route by a router, and tells the other router the way to it.
func (f *fleet) connect(name string, router *topology.Router, nic string, address, gateway netip.Prefix) *topology.Interface {
	f.t.Helper()
	host := await.Must1[*topology.Host](f.t)(f.s.Host(name))
	connected := f.plug(host, router, nic, address, gateway)
	await.Must(f.t, host.AddRoute(topology.Route{Via: gateway.Addr()}))
	return connected
}

// plug gives a host a cable to a router, and tells the other router the way to it.
func (f *fleet) plug(host *topology.Host, router *topology.Router, nic string, address, gateway netip.Prefix) *topology.Interface {
	f.t.Helper()
	connected, _, err := f.s.Connect(
		topology.NIC{Host: host, Name: nic, Addresses: []netip.Prefix{address}},
		topology.NIC{Host: router.Host, Name: host.Name + "-" + nic, Addresses: []netip.Prefix{gateway}})
	await.Must(f.t, err)
	other := f.s.Replication
	if router == other {
		other = f.s.Production
	}
	transit := await.Must1[*topology.Interface](f.t)(router.Interface("transit"))
	await.Must(f.t, other.AddRoute(topology.Route{Destination: address.Masked(), Via: transit.Address(topology.IPv4)}))
	return connected
}

// makeKeys makes the keys of the servers and of the controller, and has its ssh know the servers by their names.
func (f *fleet) makeKeys() {
	f.t.Helper()
	for _, name := range []string{"host", "key"} {
		output, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", f.path(name)).CombinedOutput()
		if err != nil {
			f.t.Fatalf("ssh-keygen: %v\n%s", err, output)
		}
	}
	const dir = "/etc/ssh/ssh_config.d" // of the sandbox
	await.Must(f.t, unix.Mount("none", dir, "tmpfs", 0, "mode=755"))
	f.t.Cleanup(func() { await.Must(f.t, unix.Unmount(dir, unix.MNT_DETACH)) })
	config := "IdentityFile " + f.path("key") + "\nUserKnownHostsFile /dev/null\nStrictHostKeyChecking no\nLogLevel ERROR\n"
	for _, host := range f.servers {
		config += fmt.Sprintf("Host %s\nHostName %s\n", host.name, host.Eth0.Address(topology.IPv4))
	}
	await.Must(f.t, os.WriteFile(dir+"/fleet.conf", []byte(config), 0o644))
}

// startSSH starts sshd on a server, for root with the controller's key.
func (f *fleet) startSSH(host server) {
	f.t.Helper()
	for _, name := range []string{"host", "key.pub"} {
		text := await.Must1[[]byte](f.t)(os.ReadFile(f.path(name)))
		await.Must(f.t, os.WriteFile(host.m.Shared(name), text, 0o600))
	}
	host.m.Write("/run/test/sshd_config", "HostKey /run/test/host\nAuthorizedKeysFile /run/test/key.pub\nStrictModes no\n"+
		"UsePAM no\nPidFile none\nPrintMotd no\nListenAddress 0.0.0.0\nSubsystem sftp internal-sftp\n")
	host.m.Run("mkdir", "-p", "/run/sshd") // where its unprivileged part is shut in; the package's unit makes it
	command := host.m.Command(f.t.Context(), "/usr/sbin/sshd", "-D", "-e", "-f", "/run/test/sshd_config")
	sshd := product.StartProgram(f.t, command, unix.SIGTERM)
	sshd.WaitLog(1, "Server listening")
}

// wantMoved has the controller ask a server's eth1, and wants the answers to leave by it; or else to be lost by eth0.
func (f *fleet) wantMoved(host server, moved bool) {
	f.t.Helper()
	c := traffic.NewConversation(f.t, traffic.UDP, f.controller, host.Eth1.Address(topology.IPv4))
	if moved {
		wire.WantByEth1(f.t, host.Server, c)
	} else {
		wire.WantLost(f.t, host.Server, c)
	}
}

// wantMode wants a server to be in a mode; empty where replypath is not installed.
func (f *fleet) wantMode(host server, mode string) {
	f.t.Helper()
	if mode == "" {
		host.m.Refuse("sh", "-c", "command -v replypath")
	} else if got := host.m.Run("replypath", "mode"); !strings.HasPrefix(got, mode) {
		f.t.Errorf("%s: the mode is %q, not %s", host.Name, got, mode)
	}
}
