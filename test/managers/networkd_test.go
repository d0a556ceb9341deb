package managers

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"replypath/test/harness"
	"replypath/test/topology"
)

const networkdBinary = "/lib/systemd/systemd-networkd"

// networkd is a systemd-networkd that configures a server.
type networkd struct {
	*machine
	n       *topology.TwoNIC
	program *harness.Program
}

// eth0File is networkd's for eth0.
func eth0File(n *topology.TwoNIC) string {
	text := "[Match]\nName=eth0\n[Network]\nIPv6AcceptRA=no\n"
	for _, f := range n.Families() {
		text += fmt.Sprintf("Gateway=%s\n", n.Server.Eth0.Gateway(f))
	}
	return text + addressLines(n.Server.Eth0)
}

// eth1File is networkd's for eth1, without any rule or route.
func eth1File(n *topology.TwoNIC) string {
	return "[Match]\nName=eth1\n[Network]\nIPv6AcceptRA=no\n" + addressLines(n.Server.Eth1)
}

func addressLines(i *topology.Interface) (text string) {
	for _, a := range i.Addresses {
		text += fmt.Sprintf("Address=%s\n", a)
	}
	return text
}

// startNetworkd writes its files, starts it and waits until it has configured
// both interfaces.
func startNetworkd(t *testing.T, n *topology.TwoNIC, eth1 string) *networkd {
	t.Helper()
	d := &networkd{machine: newMachine(t, n.Server.Host), n: n}
	d.write("/run/systemd/network/10-eth0.network", eth0File(n))
	d.write("/run/systemd/network/10-eth1.network", eth1)
	d.startBus()
	d.start()
	return d
}

func (d *networkd) start() {
	d.t.Helper()
	d.program = d.machine.start(networkdBinary)
	d.waitConfigured()
}

// waitConfigured waits until networkd is done with both interfaces.
func (d *networkd) waitConfigured() {
	d.t.Helper()
	for _, name := range []string{"eth0", "eth1"} {
		harness.Eventually(d.t, name+" is configured", func() error {
			output, err := d.command("networkctl", "list", "--no-legend", "--no-pager", name).CombinedOutput()
			if err == nil && !strings.HasSuffix(strings.TrimSpace(string(output)), " configured") {
				err = errors.New("not yet")
			}
			if err != nil {
				err = fmt.Errorf("%w: %s", err, output)
			}
			return err
		})
	}
	for _, i := range []*topology.Interface{d.n.Server.Eth0, d.n.Server.Eth1} {
		harness.Must(d.t, i.WaitReady(harness.Within(d.t, harness.AnswerTime)))
	}
	for _, f := range d.n.Families() {
		i := d.n.Server.Eth0
		harness.Must(d.t, i.Resolve(harness.Within(d.t, harness.AnswerTime), i.Gateway(f)))
	}
}

// restart is `systemctl restart systemd-networkd`.
func (d *networkd) restart() {
	d.t.Helper()
	d.program.Signal(unix.SIGTERM)
	d.program.WaitEnd()
	d.start()
}

// reconfigure is `networkctl reconfigure eth1`.
func (d *networkd) reconfigure() {
	d.t.Helper()
	d.run("networkctl", "reconfigure", "eth1")
	d.waitConfigured()
}

// TestNetworkdDeletesRules sets up rules and routes by hand, as the recipe shows.
// They work until networkd is restarted, or told to configure eth1 anew.
func TestNetworkdDeletesRules(t *testing.T) {
	n, recipe := newServer(t)
	d := startNetworkd(t, n, eth1File(n))
	for name, change := range map[string]func(){"restart": d.restart, "reconfigure": d.reconfigure} {
		recipe.Run(n.Server.Host, "By hand")
		eachKind(t, n, "before "+name, func(t *testing.T, c *harness.Conversation) { wantByEth1(t, n, c) })
		change()
		eachKind(t, n, "after "+name, func(t *testing.T, c *harness.Conversation) { harness.WantLost(t, n.Server, c) })
	}
}

// TestNetworkdRestarts restarts networkd under replypath: nothing changes.
func TestNetworkdRestarts(t *testing.T) {
	n, _ := newServer(t)
	d := startNetworkd(t, n, eth1File(n))
	wantUnchanged(t, n, d.restart)
}

// wantUnchanged runs replypath and wants a change by a network manager to send no
// reply the wrong way: neither of a connection that stays open, nor afterwards.
func wantUnchanged(t *testing.T, n *topology.TwoNIC, change func()) {
	t.Helper()
	p := harness.On(t, n.Server.Host)
	p.Start()
	eachKind(t, n, "before", func(t *testing.T, c *harness.Conversation) { wantByEth1(t, n, c) })
	wires := harness.Tap(t, n.Server)
	long := harness.NewConversation(t, harness.TCP, n.ClientEth0, n.Server.Eth1.Address(topology.IPv4))
	talk := long.Keep(t)
	for range 3 {
		change()
		awaitOwn(t, n, p)
		eachKind(t, n, "after", func(t *testing.T, c *harness.Conversation) { wantByEth1(t, n, c) })
	}
	talk.Stop()
	wires.WantEth1("a connection that stays open", long.Answers())
	wantManaged(t, p)
}

// awaitOwn returns when the programs know the addresses that are asked, which may
// have been away for a moment.
func awaitOwn(t *testing.T, n *topology.TwoNIC, p *harness.Product) {
	t.Helper()
	for _, f := range n.Families() {
		p.AwaitOwn(n.Server.Eth1.Address(f), true, time.Now())
	}
}

// wantManaged wants both interfaces to be managed, attached, and with what was
// learned of eth0's gateways.
func wantManaged(t *testing.T, p *harness.Product) {
	t.Helper()
	status := p.Status()
	for _, name := range []string{"eth0", "eth1"} {
		if i := status.Interface(name); i == nil || !i.Attached || !i.Up {
			t.Errorf("status of %s: %+v", name, i)
		}
	}
	if i := status.Interface("eth0"); i != nil && len(i.Gateways) != 2 {
		t.Errorf("gateways of eth0: %+v", i.Gateways)
	}
}

// TestNetworkdRules is what the recipe shows for networkd alone: rules in its own
// files stay.
func TestNetworkdRules(t *testing.T) {
	n, recipe := newServer(t)
	d := startNetworkd(t, n, recipe.Text("With networkd", "ini"))
	d.restart()
	eachKind(t, n, "rules in a file", func(t *testing.T, c *harness.Conversation) { wantByEth1(t, n, c) })
}

// TestBoot starts replypath on a host whose interfaces have neither addresses nor
// a carrier, as at boot, and has networkd configure them then.
func TestBoot(t *testing.T) {
	n, _ := newServer(t)
	forgetAddresses(t, n)
	p := harness.On(t, n.Server.Host)
	p.Start()
	p.Expect(3, "status") // nothing is attached
	startNetworkd(t, n, eth1File(n))
	waitManaged(t, p)
	eachKind(t, n, "after boot", func(t *testing.T, c *harness.Conversation) { wantByEth1(t, n, c) })
	wantManaged(t, p)
}

// forgetAddresses leaves the server's interfaces as they are after a reboot.
func forgetAddresses(t *testing.T, n *topology.TwoNIC) {
	t.Helper()
	for _, i := range []*topology.Interface{n.Server.Eth0, n.Server.Eth1} {
		for _, a := range i.Addresses {
			harness.Must(t, i.RemoveAddress(a))
		}
		harness.Must(t, i.SetDown())
	}
}

// waitManaged returns when both interfaces are attached.
func waitManaged(t *testing.T, p *harness.Product) {
	t.Helper()
	harness.Eventually(t, "both interfaces are managed", func() error {
		result := p.Run("status")
		if result.Code != 0 || !strings.Contains(result.Stdout, "eth0") || !strings.Contains(result.Stdout, "eth1") {
			return errors.New(result.String())
		}
		return nil
	})
}
