// SPDX-License-Identifier: Apache-2.0

// Package managers runs what configures networks, and what starts services, on real hosts beside replypath:
// systemd-networkd, NetworkManager, ifupdown and systemd itself (scenario S8), agents of clouds (S9), firewalls,
// routing daemons and container engines (S7).
package managers

import (
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"replypath/test/await"
	"replypath/test/host"
	"replypath/test/product"
	_ "replypath/test/product/inprocess"
	"replypath/test/server"
	"replypath/test/topology"
	"replypath/test/traffic"
	"replypath/test/wire"
)

func TestMain(m *testing.M) { product.Main(m) }

// newServer builds the network of a server with two interfaces, the replication address behind a router that checks
// sources, and the recipe.
func newServer(t *testing.T) (*topology.TwoNIC, *host.Recipe) {
	t.Helper()
	n := traffic.NewTwoNIC(t, topology.TwoNICOptions{Policy: topology.StrictSource})
	return n, host.ReadRecipe(t, "s8-reboot-and-restarts")
}

// eachQuestion runs a subtest for each family and kind of question to eth1.
func eachQuestion(t *testing.T, n *topology.TwoNIC, name string, run func(testing.TB, *topology.Server, *traffic.Conversation)) {
	t.Helper()
	traffic.EachQuestionOf(t, n.Families(), name, func(t *testing.T, f topology.Family, kind traffic.Kind) {
		run(t, n.Server, traffic.NewConversation(t, kind, n.ClientEth0, n.Server.Eth1.Address(f)))
	})
}

// networkDaemon is what configures a server's interfaces.
type networkDaemon struct {
	*machine
	n       *topology.TwoNIC
	args    []string // that start it
	anew    []string // the command that has it set up an interface anew, whose name comes last
	asked   []string // the command that shows what it has configured
	shown   string   // a regular expression of what that says of an interface, by its number
	program *product.Program
}

// networkDaemons start each of them on a server whose eth1 has neither rules nor routes.
var networkDaemons = map[string]func(*testing.T, *topology.TwoNIC) *networkDaemon{
	"networkd": func(t *testing.T, n *topology.TwoNIC) *networkDaemon { return startNetworkd(t, n, eth1File(n)) },
	"NetworkManager": func(t *testing.T, n *topology.TwoNIC) *networkDaemon {
		return startNetworkManager(t, n, keyfile(n, n.Server.Eth1))
	},
}

func (d *networkDaemon) start() {
	d.t.Helper()
	d.program = d.machine.start(d.args...)
	d.waitConfigured()
}

// restart is `systemctl restart`.
func (d *networkDaemon) restart() {
	d.t.Helper()
	d.program.Signal(unix.SIGTERM)
	d.program.WaitEnd()
	d.start()
}

// reconfigure has it set up an interface anew.
func (d *networkDaemon) reconfigure(device string) {
	d.t.Helper()
	d.run(append(slices.Clone(d.anew), device)...)
	d.waitConfigured()
}

// waitConfigured waits until it is done with both interfaces.
func (d *networkDaemon) waitConfigured() {
	d.t.Helper()
	await.Eventually(d.t, "both interfaces are configured", func() error {
		output, err := d.command(d.asked...).CombinedOutput()
		for i := range 2 {
			if err == nil && !regexp.MustCompile(fmt.Sprintf(d.shown, i)).Match(output) {
				err = errors.New("not yet")
			}
		}
		if err != nil {
			err = fmt.Errorf("%w: %s", err, output)
		}
		return err
	})
	waitConfigured(d.t, d.n)
}

// waitConfigured returns when both interfaces have their addresses, and know the MACs of eth0's gateways.
func waitConfigured(t *testing.T, n *topology.TwoNIC) {
	t.Helper()
	for _, i := range []*topology.Interface{n.Server.Eth0, n.Server.Eth1} {
		await.Must(t, i.WaitReady(await.Within(t, await.AnswerTime)))
	}
	for _, f := range n.Families() {
		i := n.Server.Eth0
		await.Must(t, i.Resolve(await.Within(t, await.AnswerTime), i.Gateway(f)))
	}
}

// TestNetworkDaemons restarts each of them under replypath, and has it configure eth1 anew: nothing changes.
func TestNetworkDaemons(t *testing.T) {
	for name, start := range networkDaemons {
		t.Run(name, func(t *testing.T) {
			n, _ := newServer(t)
			d := start(t, n)
			wantUnchanged(t, n, d.restart, func() { d.reconfigure("eth1") })
		})
	}
}

// wantUnchanged runs replypath and wants changes by a network daemon to send no reply the wrong way: neither of a
// connection that stays open, nor afterwards.
func wantUnchanged(t *testing.T, n *topology.TwoNIC, changes ...func()) {
	t.Helper()
	p, _ := product.StartOn(t, n.Server.Host)
	eachQuestion(t, n, "before", wire.WantByEth1)
	talks := server.KeepTCP(t, n)
	for range 3 {
		for _, change := range changes {
			change()
			awaitOwn(t, n, p)
			eachQuestion(t, n, "after", wire.WantByEth1)
		}
	}
	for _, long := range talks {
		t.Logf("%s, open all the time: %d changes, %d frames of answers", long, 3*len(changes), len(long.End()))
	}
	wantManaged(t, p)
}

// awaitOwn returns when the programs know the addresses that are asked, which may have been away for a moment.
func awaitOwn(t *testing.T, n *topology.TwoNIC, p *product.Product) {
	t.Helper()
	for _, f := range n.Families() {
		p.AwaitOwn(n.Server.Eth1.Address(f), true, time.Now())
	}
}

// wantManaged wants both interfaces to be managed, attached, and with what was learned of eth0's gateways, whose routes may
// have changed a moment ago.
func wantManaged(t *testing.T, p *product.Product) {
	t.Helper()
	await.Eventually(t, "both are managed, eth0 with two gateways", func() error {
		status := p.Status()
		for _, name := range []string{"eth0", "eth1"} {
			if i := status.Interface(name); i == nil || !i.Attached || !i.Up {
				return fmt.Errorf("status of %s: %+v", name, i)
			}
		}
		if known := status.Interface("eth0").Gateways; len(known) != 2 {
			return fmt.Errorf("gateways of eth0: %+v", known)
		}
		return nil
	})
}

// TestBoot starts replypath on a host whose interfaces have neither addresses nor a carrier, as at boot, and has each
// daemon configure them then.
func TestBoot(t *testing.T) {
	for name, start := range networkDaemons {
		t.Run(name, func(t *testing.T) {
			n, _ := newServer(t)
			forgetAddresses(t, n)
			p, _ := product.StartOn(t, n.Server.Host)
			p.Expect(3, "status") // nothing is attached
			start(t, n)
			began := time.Now()
			waitManaged(t, p)
			t.Logf("both interfaces are managed %s after %s is done", time.Since(began).Round(time.Millisecond), name)
			eachQuestion(t, n, "after boot", wire.WantByEth1)
			wantManaged(t, p)
		})
	}
}

// forgetAddresses leaves the server's interfaces as they are after a reboot.
func forgetAddresses(t *testing.T, n *topology.TwoNIC) {
	t.Helper()
	for _, i := range []*topology.Interface{n.Server.Eth0, n.Server.Eth1} {
		for _, a := range i.Addresses {
			if err := i.RemoveAddress(a); !errors.Is(err, unix.EADDRNOTAVAIL) { // they may be gone already
				await.Must(t, err)
			}
		}
		await.Must(t, i.SetDown())
	}
}

// waitManaged returns when both interfaces are attached.
func waitManaged(t *testing.T, p *product.Product) {
	t.Helper()
	await.Eventually(t, "both interfaces are managed", func() error {
		result := p.Run("status")
		if result.Code != 0 || !strings.Contains(result.Stdout, "eth0") || !strings.Contains(result.Stdout, "eth1") {
			return errors.New(result.String())
		}
		return nil
	})
}

// pace is how often a connection is opened.
const pace = 5 * time.Millisecond

// startLoad begins to ask, by connections that stay open and by one new connection after the other.
func startLoad(t *testing.T, n *topology.TwoNIC) *server.Load {
	t.Helper()
	return server.StartLoad(t, n, func(client *topology.Host, eth1 netip.AddrPort) []*traffic.Asker {
		return []*traffic.Asker{{Kind: traffic.TCP, From: client, To: eth1, Pace: pace},
			{Kind: traffic.TCP, From: client, To: eth1, Pace: pace * time.Duration(len(n.Families())), Fresh: true}}
	})
}
