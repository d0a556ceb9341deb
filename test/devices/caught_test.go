// SPDX-License-Identifier: Apache-2.0

package devices

import (
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"replypath/test/await"
	"replypath/test/host"
	"replypath/test/product"
	"replypath/test/server"
	"replypath/test/topology"
	"replypath/test/traffic"
	"replypath/test/wire"
)

// wantCaught wants replies to be caught on exactly these interfaces within a second.
func wantCaught(t *testing.T, p *product.Product, names ...string) {
	t.Helper()
	const soon = time.Second
	begun := time.Now()
	awaitCaught(t, p, names...)
	if took := time.Since(begun); took > await.Patient(soon) {
		t.Errorf("that took %s", took)
	}
}

// awaitCaught waits for that.
func awaitCaught(t *testing.T, p *product.Product, names ...string) {
	t.Helper()
	await.Eventually(t, fmt.Sprintf("replies are caught on %q", names), func() error {
		var caught []string
		for _, i := range p.Status().Interfaces {
			if i.Role == "catches" && i.Attached {
				caught = append(caught, i.Name)
			}
		}
		if !slices.Equal(caught, names) {
			return fmt.Errorf("%q", caught)
		}
		return nil
	})
}

// TestEth1Alone has the configuration name eth1 alone, while the default route leads by eth0: replies that the kernel sends
// there are moved, and nothing else of eth0 is heeded or changed. A restart goes on with it, a reload may change it.
func TestEth1Alone(t *testing.T) {
	server.EachMechanism(t, func(t *testing.T, mechanism string) {
		n := traffic.NewTwoNIC(t, topology.TwoNICOptions{Policy: topology.StrictSource})
		server := n.Server.Host
		for _, f := range n.Families() {
			traffic.Serve(t, server, n.Server.Eth0.Address(f))
		}
		await.Must(t, server.SetSysctl("net/ipv4/conf/eth0/rp_filter", "1"))
		before := host.TakeSnapshot(t, server, "eth0", "eth1")
		wantAllLost(t, n, n.Server)
		p := product.On(t, server)
		path := product.WriteConfig(t, "interfaces: [{name: eth1}]\n")
		arguments := []string{"--config", path, "--mechanism", mechanism}
		d := p.Start(arguments...)
		wantCaught(t, p, "eth0")
		wantAllByEth1(t, n, n.Server)
		wantOnlyCaught(t, p)
		if caught := p.Metrics().Sum("replypath_corrected_packets_total", "from_interface=eth0", "to_interface=eth1"); caught == 0 {
			t.Error("nothing was counted from eth0 to eth1")
		}
		for _, f := range n.Families() {
			traffic.Ask(t, traffic.NewConversation(t, traffic.UDP, n.ClientEth0, n.Server.Eth0.Address(f)))
		}
		for _, flow := range p.Flows() {
			if flow.Interface == nil || *flow.Interface != "eth1" {
				t.Errorf("recorded: %s", flow)
			}
		}
		await.Says(t, "check", p.Expect(0, "check", "--config", path).Stdout, "catches")
		d.Kill()
		wantAllByEth1(t, n, n.Server)
		d = p.Start(arguments...)
		wantCaught(t, p, "eth0")
		wantAllByEth1(t, n, n.Server)
		for _, change := range []struct {
			text   string
			caught []string
		}{
			{"interfaces: [{name: eth0}, {name: eth1}]\n", nil},
			{"interfaces: [{name: eth0}]\n", nil}, // nothing leads out of eth1
			{"interfaces: [{name: eth9}]\n", nil},
			{"interfaces: [{name: eth1, mode: observe}]\n", []string{"eth0"}},
		} {
			await.Must(t, os.WriteFile(path, []byte(change.text), 0o600))
			d.Reload()
			wantCaught(t, p, change.caught...)
		}
		counted := func() float64 {
			return p.Metrics().Sum("replypath_uncorrected_packets_total", "from_interface=eth0", "to_interface=eth1", "reason=observe")
		}
		observed := counted()
		wantAllLost(t, n, n.Server)
		if counted() == observed {
			t.Error("nothing was counted that would be moved")
		}
		p.Expect(0, "detach", "--stop")
		await.Same(t, "what detach leaves", "", before.Diff(host.TakeSnapshot(t, server, "eth0", "eth1")))
	})
}

// wantOnlyCaught wants the status to tell of eth0 that it is not managed, and that none of its settings was changed.
func wantOnlyCaught(t *testing.T, p *product.Product) {
	t.Helper()
	s := p.Status()
	if i := s.Interface("eth1"); i == nil || i.Role != "records" || !i.Attached {
		t.Errorf("eth1: %+v", i)
	}
	for _, c := range s.HostChanges {
		if strings.Contains(c.Object, "eth0") && !strings.Contains(c.Object, "qdisc") {
			t.Errorf("changed: %s", c.Object)
		}
	}
	if len(s.Errors) > 0 {
		t.Errorf("errors: %q", s.Errors)
	}
	for _, f := range p.Doctor(0) {
		if f.Severity != "ok" && (product.OrEmpty(f.Interface) == "eth0" || strings.Contains(f.Found, "eth0")) {
			t.Errorf("doctor warns of an interface that is caught: %+v", f)
		}
	}
}

// TestExitNode has a VPN's default route, in a table of its own, take the answers to requests on the host's own interfaces.
// The VPN's device is one that is ignored, and has no Ethernet header.
func TestExitNode(t *testing.T) {
	server.EachMechanism(t, func(t *testing.T, mechanism string) {
		n := traffic.NewTwoNIC(t, topology.TwoNICOptions{Policy: topology.StrictSource})
		for _, f := range n.Families() {
			traffic.Serve(t, n.Server.Host, n.Server.Eth0.Address(f))
		}
		vpn := await.Must1[*topology.Host](t)(n.Network.Host("vpn"))
		tun, _, err := n.ConnectTun(
			topology.NIC{Host: n.Server.Host, Name: "tailscale0", Addresses: []netip.Prefix{netip.MustParsePrefix("100.64.0.1/32")}},
			topology.NIC{Host: vpn, Name: "tun0"})
		await.Must(t, err)
		page := host.ReadRecipe(t, "exit-node")
		page.Run(n.Server.Host, "What the exit node makes")
		each := func(name string, ask func(*testing.T, *topology.Interface, *traffic.Conversation)) {
			traffic.EachQuestion(t, name, func(t *testing.T, f topology.Family, kind traffic.Kind) {
				for _, asked := range []*topology.Interface{n.Server.Eth0, n.Server.Eth1} {
					ask(t, asked, traffic.NewConversation(t, kind, n.ClientEth0, asked.Address(f)))
				}
			})
		}
		each("without replypath", func(t *testing.T, _ *topology.Interface, c *traffic.Conversation) {
			exits := wire.TapAll(t, n.Server.Eth0, n.Server.Eth1, tun)
			if wire.AskInVain(t, c, exits.At(tun)) == nil {
				t.Errorf("%s: answered", c)
			}
		})
		page.Run(n.Server.Host, "With ip rule")
		for _, f := range n.Families() {
			traffic.Ask(t, traffic.NewConversation(t, traffic.TCP, n.ClientEth0, n.Server.Eth0.Address(f)))
		}
		host.Shell(t, n.Server.Host, "ip rule del pref 5200; ip -6 rule del pref 5200")
		p, _ := product.StartOn(t, n.Server.Host, "--mechanism", mechanism)
		wantCaught(t, p, "tailscale0")
		each("with replypath", func(t *testing.T, asked *topology.Interface, c *traffic.Conversation) {
			exits := wire.TapAll(t, n.Server.Eth0, n.Server.Eth1, tun)
			traffic.Ask(t, c)
			exits.Want(c.String(), c.Answers(), asked, asked.Peer().MAC)
		})
	})
}

// TestRouteAppears has routes lead out of interfaces that are not managed, and end: replies are caught there within a second.
func TestRouteAppears(t *testing.T) {
	n := traffic.NewTwoNIC(t, topology.TwoNICOptions{Policy: topology.StrictSource})
	server := n.Server.Host
	vpn := await.Must1[*topology.Host](t)(n.Network.Host("vpn"))
	_, _, err := n.ConnectTun(topology.NIC{Host: server, Name: "tun0"}, topology.NIC{Host: vpn, Name: "tun0"})
	await.Must(t, err)
	p := product.On(t, server)
	product.Quiet(t) // a second is judged
	p.Start()
	host.Shell(t, server, "ip route add default dev tun0 table 101")
	awaitCaught(t, p, "tun0") // from now on the program for it is there
	host.Shell(t, server, "ip route del default dev tun0 table 101")
	awaitCaught(t, p)
	for _, way := range []string{
		"default dev tun0 metric 1", "-6 default dev tun0 metric 1", "default dev tun0 table 100", "0.0.0.0/1 dev tun0",
		"-6 2000::/3 dev tun0", "10.9.0.0/24 via 100.64.0.9 dev tun0 onlink", "-6 2001:db8:9::/64 via fe80::9 dev tun0 table 100",
	} {
		family, route := "", way
		if six, is := strings.CutPrefix(way, "-6 "); is {
			family, route = "-6 ", six
		}
		host.Shell(t, server, "ip "+family+"route add "+route)
		wantCaught(t, p, "tun0")
		if !strings.Contains(way, "table") {
			for _, f := range n.Families() {
				traffic.Ask(t, traffic.NewConversation(t, traffic.TCP, n.ClientEth0, n.Server.Eth1.Address(f)))
			}
		}
		host.Shell(t, server, "ip "+family+"route del "+route)
		await.Eventually(t, "nothing is caught any more", func() error {
			if s := p.Status(); len(s.Interfaces) != 2 {
				return fmt.Errorf("%+v", s.Interfaces)
			}
			return nil
		})
	}
	host.Shell(t, server, "ip route add default dev tun0 metric 1")
	wantCaught(t, p, "tun0")
	host.Shell(t, server, "ip link del tun0")
	wantCaught(t, p)
}

// TestLeftBefore has routes lead out of an interface before the program there stands, as the daemon is held up: what leaves
// meanwhile nobody sees. It is counted with what follows it: the segment that TCP repeats, and the next answer, which go right.
func TestLeftBefore(t *testing.T) {
	n := traffic.NewTwoNIC(t, topology.TwoNICOptions{Policy: topology.StrictSource})
	server := n.Server.Host
	vpn := await.Must1[*topology.Host](t)(n.Network.Host("vpn"))
	tun, _, err := n.ConnectTun(topology.NIC{Host: server, Name: "tun0"}, topology.NIC{Host: vpn, Name: "tun0"})
	await.Must(t, err)
	p, d := product.StartOn(t, server)
	d.Signal(unix.SIGSTOP)
	host.Shell(t, server, "ip route add 0.0.0.0/1 dev tun0; ip -6 route add 2000::/3 dev tun0")
	exits := wire.TapAll(t, n.Server.Eth0, n.Server.Eth1, tun)
	var asked []*traffic.Conversation
	for _, f := range n.Families() {
		for _, kind := range traffic.Kinds {
			c := traffic.NewConversation(t, kind, n.ClientEth0, n.Server.Eth1.Address(f))
			if wire.AskInVain(t, c, exits.At(tun)) == nil {
				t.Errorf("%s: answered", c)
			}
			asked = append(asked, c)
		}
	}
	counted := func(what string, c *traffic.Conversation) float64 {
		return p.Metrics().Sum("replypath_"+what+"_total",
			"from_interface=tun0", "to_interface=eth1", "family="+topology.FamilyOf(c.Self.Addr()).String(), "protocol="+c.Protocol())
	}
	back := wire.TapAll(t, n.Server.Eth1) // from before: what TCP repeats may be the first that is caught
	d.Signal(unix.SIGCONT)
	awaitCaught(t, p, "tun0")
	exits = wire.TapAll(t, n.Server.Eth0, tun)
	for _, c := range asked {
		if c.Kind != traffic.TCP {
			traffic.Ask(t, c)
		}
		await.Eventually(t, c.String()+" is counted", func() error {
			if flows, packets := counted("asymmetric_flows", c), counted("corrected_packets", c); flows != 1 || packets < 1 {
				return fmt.Errorf("%v flows, %v packets", flows, packets)
			}
			return nil
		})
		back.Want(c.String(), c.Answers(), n.Server.Eth1, n.Server.Eth1.Peer().MAC)
		if wrong := exits.All(c.Answers()); len(wrong) > 0 {
			t.Errorf("%s: answers left by another interface: %s", c, wire.Describe(wrong))
		}
	}
}
