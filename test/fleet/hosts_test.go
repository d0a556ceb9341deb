// SPDX-License-Identifier: Apache-2.0

package fleet

import (
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"replypath/test/harness"
	"replypath/test/topology"
)

// fleet are two servers that systemd has booted, each with two interfaces and OpenSSH, and a controller behind the router
// of their production network. Routers drop what has a source that does not belong where it comes from.
type fleet struct {
	t          *testing.T
	s          *topology.S1
	controller *topology.Interface
	servers    []server
	dir        string // of the controller
}

// server is one of the servers.
type server struct {
	*topology.Server
	m *harness.Machine
}

// The controller's network, as the networks of the servers are numbered.
var (
	controllerAddress = netip.MustParsePrefix("10.9.0.100/24")
	controllerGateway = netip.MustParsePrefix("10.9.0.1/24")
)

// newFleet boots the servers.
func newFleet(t *testing.T) *fleet {
	t.Helper()
	s := harness.NewS1(t, topology.S1Options{Policy: topology.StrictSource, NoStaticRoute: true, NoIPv6: true})
	f := &fleet{t: t, s: s, dir: t.TempDir()}
	f.connectController()
	harness.Serve(t, s.A.Host, s.A.Eth1.Address(topology.IPv4))
	for _, name := range []string{"host", "key"} {
		output, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", f.path(name)).CombinedOutput()
		if err != nil {
			t.Fatalf("ssh-keygen: %v\n%s", err, output)
		}
	}
	for _, host := range []*topology.Server{s.A, s.B} {
		f.servers = append(f.servers, server{Server: host, m: harness.NewMachine(t, host.Host)})
	}
	for _, host := range f.servers {
		host.m.Boot()
	}
	for _, host := range f.servers {
		host.m.WaitBooted()
		// The others' is the same for all machines. This one lasts as long as the machine.
		host.m.Run("mount", "-t", "bpf", "bpf", "/sys/fs/bpf")
		host.m.Run("rm", "-f", "/usr/bin/replypath") // where the real machine has one
		f.startSSH(host)
	}
	return f
}

func (f *fleet) path(name string) string { return filepath.Join(f.dir, name) }

// connectController gives the controller a cable to the production router, and the replication router the way to it.
func (f *fleet) connectController() {
	f.t.Helper()
	host := harness.Must1[*topology.Host](f.t)(f.s.Host("controller"))
	var err error
	f.controller, _, err = f.s.Connect(
		topology.NIC{Host: host, Name: "eth0", Addresses: []netip.Prefix{controllerAddress}},
		topology.NIC{Host: f.s.Production.Host, Name: "controller", Addresses: []netip.Prefix{controllerGateway}})
	harness.Must(f.t, err)
	harness.Must(f.t, host.AddRoute(topology.Route{Via: controllerGateway.Addr()}))
	transit := harness.Must1[*topology.Interface](f.t)(f.s.Production.Interface("transit"))
	route := topology.Route{Destination: controllerAddress.Masked(), Via: transit.Address(topology.IPv4)}
	harness.Must(f.t, f.s.Replication.AddRoute(route))
	harness.Must(f.t, f.s.WaitReady(harness.Within(f.t, harness.AnswerTime)))
}

// startSSH starts sshd on a server, for root with the controller's key.
func (f *fleet) startSSH(host server) {
	f.t.Helper()
	for _, name := range []string{"host", "key.pub"} {
		text := harness.Must1[[]byte](f.t)(os.ReadFile(f.path(name)))
		harness.Must(f.t, os.WriteFile(host.m.Shared(name), text, 0o600))
	}
	host.m.Write("/run/test/sshd_config", "HostKey /run/test/host\nAuthorizedKeysFile /run/test/key.pub\nStrictModes no\n"+
		"UsePAM no\nPidFile none\nPrintMotd no\nListenAddress 0.0.0.0\nSubsystem sftp internal-sftp\n")
	host.m.Run("mkdir", "-p", "/run/sshd") // where its unprivileged part is shut in; the package's unit makes it
	command := host.m.Command(f.t.Context(), "/usr/sbin/sshd", "-D", "-e", "-f", "/run/test/sshd_config")
	sshd := harness.StartProgram(f.t, command, unix.SIGTERM)
	sshd.WaitLog(1, "Server listening")
}

// wantMoved has the controller ask a server's eth1, and wants the answers to leave by it; or else to be lost by eth0.
func (f *fleet) wantMoved(host server, moved bool) {
	f.t.Helper()
	c := harness.NewConversation(f.t, harness.TCP, f.controller, host.Eth1.Address(topology.IPv4))
	if moved {
		harness.WantByEth1(f.t, host.Server, c)
	} else {
		harness.WantLost(f.t, host.Server, c)
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
