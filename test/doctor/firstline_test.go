// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"replypath/test/await"
	"replypath/test/host"
	"replypath/test/product"
	"replypath/test/server"
	"replypath/test/topology"
	"replypath/test/traffic"
)

// bed is a host with its network, and the daemon that it began with.
type bed struct {
	*topology.TwoNIC
	p *product.Product
	d *product.Daemon
}

// badState is what may be wrong with a host, or may look so.
type badState struct {
	name         string
	begin        func(*testing.T, *bed)
	state, check string // of the first line, and one of the findings
}

// badHosts are in some states one after the other: what was wrong stays.
var badHosts = []struct {
	config string
	states []badState
}{
	{"", []badState{
		{"nothing", nil, "ok", ""},
		{"datagrams are answered", func(t *testing.T, n *bed) {
			traffic.Ask(t, traffic.NewConversation(t, traffic.UDP, n.ClientEth0, n.Server.Eth1.Address(topology.IPv4)))
			traffic.Ask(t, traffic.NewConversation(t, traffic.Ping, n.ClientEth0, n.Server.Eth1.Address(topology.IPv6)))
		}, "ok", ""},
		{"a port is refused", func(t *testing.T, n *bed) { scan(t, n.TwoNIC) }, "ok", ""},
		{"datagrams that nobody is to answer", silentService, "ok", ""},
		{"pings are dropped", func(t *testing.T, n *bed) {
			host.Nft(t, n.Server.Host, "table inet deaf { chain in { type filter hook input priority 0; icmp type echo-request drop; }; }")
			c := traffic.NewConversation(t, traffic.Ping, n.ClientEth0, n.Server.Eth1.Address(topology.IPv4))
			if err := c.Ask(await.Within(t, longEnough)); err == nil {
				t.Errorf("%s was answered", c)
			}
		}, "ok", ""},
		{"a service of datagrams gets none out any more", func(t *testing.T, n *bed) {
			host.Nft(t, n.Server.Host, "table inet kill { chain out { type filter hook output priority 0; udp sport 7 drop; }; }")
			for range 2 {
				c := traffic.NewConversation(t, traffic.UDP, n.ClientEth0, n.Server.Eth1.Address(topology.IPv4))
				if err := c.Ask(await.Within(t, longEnough)); err == nil {
					t.Errorf("%s was answered", c)
				}
			}
		}, "degraded", "unanswered"},
		{"an interface that had flows is down", shell("ip link set eth1 down"), "failed", "link"},
	}},
	{"", []badState{
		{"an interface without flows is down", shell("ip link set eth1 down"), "degraded", "link"},
		{"a gateway that is silent", silence, "failed", "gateway"},
		{"no carrier where the default route leads", func(t *testing.T, n *bed) {
			await.Must(t, n.Server.Eth0.Peer().SetDown())
		}, "failed", "default-route"},
	}},
	{"mode: observe\n", []badState{
		{"only observed, and they arrive", askByEth1, "ok", "wrong-way"},
		{"strict while observing, and nobody asks", shell("sysctl -qw net.ipv4.conf.eth1.rp_filter=1"), "ok", "rp-filter"},
		{"and requests are dropped", func(t *testing.T, n *bed) {
			askInVain(t, traffic.NewConversation(t, traffic.TCP, n.ClientEth0, n.Server.Eth1.Address(topology.IPv4)))
		}, "failed", "rp-filter"},
	}},
	{"manage_rp_filter: false\n", []badState{
		{"strict, left to the host", shell("sysctl -qw net.ipv4.conf.eth1.rp_filter=1"), "degraded", "rp-filter"},
	}},
	{"interfaces: [{name: eth0}, {name: eth1, next_hop: gateway}]\n", []badState{
		{"no next hop", askByEth1, "failed", "wrong-way"},
	}},
	{"interfaces: [{name: eth0}, {name: eth1}]\n", []badState{
		{"an unmanaged way out", askedAnd("ip link add tun9 type veth peer name far; ip link set far up; ip link set tun9 up; " +
			"ip route add 10.9.0.0/24 dev tun9; ip -6 route add 2001:db8:9::/64 dev tun9"), "failed", "wrong-way"},
	}},
	{"", []badState{
		{"refused to some peers", askedAnd("ip route add blackhole 10.9.0.0/24; ip -6 route add unreachable 2001:db8:9::/64"), "failed", "wrong-way"},
		{"refused to an address", shell("ip rule add from 10.2.0.100 unreachable; ip -6 rule add from 2001:db8:2::100 unreachable"), "failed", "addresses"},
		{"no default route", shell("ip route del default; ip -6 route del default"), "failed", "default-route"},
	}},
	{"", []badState{
		{"the addresses of an interface that had flows are gone", askedAnd("ip addr flush dev eth1"), "degraded", "gone-interface"},
		{"they are back", shell("ip addr add 10.2.0.100/24 dev eth1; ip addr add 2001:db8:2::100/64 dev eth1 nodad"), "ok", ""},
		{"the interface is gone", shell("ip link del eth1"), "degraded", "gone-interface"},
		{"the configuration was loaded anew", func(t *testing.T, n *bed) {
			await.Must(t, unix.Kill(n.d.PID(), unix.SIGHUP))
		}, "ok", ""},
	}},
	{"interfaces: [{name: eth0}, {name: eth1, gateways: [10.2.0.77]}]\n", []badState{
		{"a silent gateway of the configuration, and replies go right", func(t *testing.T, n *bed) {
			askByEth1(t, n)
			host.Shell(t, n.Server.Host, "ping -c1 -W1 10.2.0.77 || true")
		}, "degraded", "gateway"},
	}},
	{"interfaces: [{name: eth0}, {name: eth1}, {name: eth9}]\n", []badState{
		{"a name that nothing has", nil, "failed", "missing-interface"},
	}},
	{"interfaces: [{name: eth0}, {name: eth1, next_hop: gateway}]\n", []badState{
		{"replies go astray", askByEth1, "failed", "wrong-way"},
		{"the configuration is mended, and another one goes right", func(t *testing.T, n *bed) {
			n.d.Reconfigure(product.SmallTables)
			for range 5 {
				askByEth1(t, n)
			}
			n.p.In(t).Expect(0, "flows", "flush", "--asymmetric")
		}, "ok", "wrong-way"},
		{"a configuration is refused", func(t *testing.T, n *bed) {
			await.Must(t, os.WriteFile(n.d.Config, []byte("mode: 1\n"), 0o600))
			n.d.Signal(unix.SIGHUP)
		}, "degraded", "configuration"},
	}},
	{"metrics: {listen: \"192.0.2.1:9945\"}\n", []badState{
		{"metrics cannot be served", nil, "degraded", "daemon"},
	}},
	{"", []badState{
		{noDaemon, func(_ *testing.T, n *bed) { n.d.Kill() }, "degraded", "configuration"},
		{"programs are taken off", takeOff, "failed", "attached"},
	}},
}

const noDaemon = "no daemon"

// silentService has a socket take datagrams, as a log host does.
func silentService(t *testing.T, n *bed) {
	const port = 514
	conn, err := n.Server.Host.ListenPacket(t.Context(), "udp", fmt.Sprintf(":%d", port))
	await.Must(t, err)
	t.Cleanup(func() { conn.Close() })
	sender, err := n.ClientEth0.Host.Dial(t.Context(), "udp", fmt.Sprintf("10.2.0.100:%d", port))
	await.Must(t, err)
	defer sender.Close()
	for range 3 {
		_, err := sender.Write([]byte("a line of a log"))
		await.Must(t, err)
		_, _, err = conn.ReadFrom(make([]byte, 64))
		await.Must(t, err)
	}
}

func shell(script string) func(*testing.T, *bed) {
	return func(t *testing.T, n *bed) { host.Shell(t, n.Server.Host, script) }
}

// askedAnd has a script run once eth1 was asked from afar.
func askedAnd(script string) func(*testing.T, *bed) {
	return func(t *testing.T, n *bed) {
		askByEth1(t, n)
		shell(script)(t, n)
	}
}

func askByEth1(t *testing.T, n *bed) {
	for _, f := range traffic.Families {
		traffic.Ask(t, traffic.NewConversation(t, traffic.TCP, n.ClientEth0, n.Server.Eth1.Address(f)))
	}
}

// takeOff has what looks at replies be gone, which explain sees.
func takeOff(t *testing.T, n *bed) {
	host.Shell(t, n.Server.Host, "rm "+n.p.PinDir+"/links/*-egress")
	e := n.p.In(t).Explain("--peer", "10.9.0.100", "--self", "10.2.0.100", "--interface", "eth1")
	if e.Verdict != "fallback" || product.OrEmpty(e.Reason) != "not_managed" {
		t.Errorf("%s", e)
	}
}

// silence has eth0's router answer no more, and the server find that out.
func silence(t *testing.T, n *bed) {
	host.Nft(t, n.Production.Host, "table arp deaf { chain in { type filter hook input priority 0; drop; }; }")
	host.Shell(t, n.Server.Host, "ip neigh flush dev eth0")
	await.Eventually(t, "the gateway is silent", func() error {
		for _, g := range n.p.In(t).Status().Interface("eth0").Gateways {
			if g.State == "held" || g.State == "failed" {
				return nil
			}
		}
		return fmt.Errorf("%+v", n.p.In(t).Status().Interface("eth0").Gateways)
	})
}

// TestFirstLines has hosts be in some states, one by one: no command is glad in a bad one, none says another thing than doctor, the
// metrics know what the daemon knows, and /healthz tells of replypath alone.
func TestFirstLines(t *testing.T) {
	for _, bad := range badHosts {
		t.Run(bad.states[0].name, func(t *testing.T) {
			t.Parallel() // most of it is waiting
			n, p := server.NewExact(t)
			on := &bed{n, p, p.Start("--config", product.WriteConfig(t, product.SmallTables+bad.config))}
			for _, state := range bad.states {
				t.Run(state.name, func(t *testing.T) {
					if state.begin != nil {
						state.begin(t, on)
					}
					state.wantFirst(t, p.In(t))
				})
			}
		})
	}
}

// known are the checks whose findings the daemon knows itself.
var known = []string{"attached", "missing-interface", "gone-interface", "link", "gateway", "configuration", "daemon", "unanswered"}

// wantFirst wants the first line to tell of the state, doctor to find the same, and exit code 3 where it failed.
func (b *badState) wantFirst(t *testing.T, p *product.Product) {
	t.Helper()
	var s *product.Status
	await.Eventually(t, "the first line says "+b.state, func() error {
		if s = p.Diagnosed(); s.Health.State != b.state || !strings.HasPrefix(s.Summary, b.state+": ") {
			return fmt.Errorf("%s: %+v", s.Summary, s.Health.Findings)
		}
		return nil
	})
	t.Logf("%s", s.Summary)
	if b.check != "" && !slices.ContainsFunc(s.Health.Findings, func(f product.Finding) bool { return f.Check == b.check }) {
		t.Errorf("%s is none of %+v", b.check, s.Health.Findings)
	}
	b.wantKnown(t, p, s)
	code := 0
	if b.state == "failed" {
		code = 3
	}
	p.StatusOf(code)
	all := p.Doctor(code)
	for _, f := range s.Health.Findings {
		isSame := func(o product.Finding) bool { return product.OrEmpty(o.Interface) == product.OrEmpty(f.Interface) }
		if !slices.ContainsFunc(all.Of(f.Check, "").With(f.Severity), isSame) {
			t.Errorf("doctor does not find %+v, but %+v", f, all.Of(f.Check, ""))
		}
	}
}

// wantKnown wants the metrics of a daemon to have the finding, and /healthz to answer 503 where replypath is not as it was told to be.
func (b *badState) wantKnown(t *testing.T, p *product.Product, s *product.Status) {
	t.Helper()
	if !s.Daemon.Running || b.check == "daemon" { // which is that nobody can ask it
		return
	}
	_, err := p.Get("/healthz")
	if unready := slices.Contains([]string{"attached", "missing-interface", "configuration"}, b.check); (err != nil) != unready {
		t.Errorf("/healthz: %v", err)
	}
	if b.state != "ok" && slices.Contains(known, b.check) {
		await.EventuallyWithin(t, 2*await.AnswerTime, "the metrics have a finding of "+b.check, func() error {
			if m := p.Metrics(); m.Sum("replypath_findings", "check="+b.check) == 0 {
				return fmt.Errorf("%v", m["replypath_findings"])
			}
			return nil
		})
	}
}
