// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"fmt"
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

// badState is what may be wrong with a host.
type badState struct {
	name         string
	begin        func(*testing.T, *topology.TwoNIC, *product.Product)
	state, check string // of the first line, and one of the findings
}

// badHosts are in some states one after the other: what was wrong stays.
var badHosts = []struct {
	config string
	states []badState
}{
	{"", []badState{
		{"nothing", nil, "ok", ""},
		{"eth1 is down", shell("ip link set eth1 down"), "degraded", "link"},
		{"a gateway that is silent", silence, "failed", "gateway"},
	}},
	{"", []badState{
		{"no default route", shell("ip route del default; ip -6 route del default"), "failed", "default-route"},
	}},
	{"", []badState{
		{"no carrier where the default route leads", func(t *testing.T, n *topology.TwoNIC, _ *product.Product) {
			await.Must(t, n.Server.Eth0.Peer().SetDown())
		}, "failed", "default-route"},
	}},
	{"mode: observe\n", []badState{
		{"only observed, and they arrive", askByEth1, "ok", "wrong-way"},
		{"strict while observing, and nobody asks", shell("sysctl -qw net.ipv4.conf.eth1.rp_filter=1"), "ok", "rp-filter"},
		{"and requests are dropped", func(t *testing.T, n *topology.TwoNIC, _ *product.Product) {
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
	}},
	{"", []badState{
		{"the addresses of an interface that had flows are gone", askedAnd("ip addr flush dev eth1"), "degraded", "gone-interface"},
		{"they are back", shell("ip addr add 10.2.0.100/24 dev eth1; ip addr add 2001:db8:2::100/64 dev eth1 nodad"), "ok", ""},
		{"the interface is gone", shell("ip link del eth1"), "degraded", "gone-interface"},
		{"the configuration was loaded anew", func(t *testing.T, _ *topology.TwoNIC, p *product.Product) {
			await.Must(t, unix.Kill(*p.Status().Daemon.PID, unix.SIGHUP))
		}, "ok", ""},
	}},
	{"interfaces: [{name: eth0}, {name: eth1, gateways: [10.4.0.77]}]\n", []badState{
		{"a silent gateway of the configuration, and replies go right", func(t *testing.T, n *topology.TwoNIC, p *product.Product) {
			askByEth1(t, n, p)
			host.Shell(t, n.Server.Host, "ping -c1 -W1 10.4.0.77 || true")
		}, "degraded", "gateway"},
	}},
	{"interfaces: [{name: eth0}, {name: eth1}, {name: eth9}]\n", []badState{
		{"a name that nothing has", nil, "failed", "missing-interface"},
	}},
	{"", []badState{
		{noDaemon, nil, "degraded", "configuration"},
		{"programs are taken off", takeOff, "failed", "attached"},
	}},
}

const noDaemon = "no daemon"

func shell(script string) func(*testing.T, *topology.TwoNIC, *product.Product) {
	return func(t *testing.T, n *topology.TwoNIC, _ *product.Product) { host.Shell(t, n.Server.Host, script) }
}

// askedAnd has a script run once eth1 was asked from afar.
func askedAnd(script string) func(*testing.T, *topology.TwoNIC, *product.Product) {
	return func(t *testing.T, n *topology.TwoNIC, p *product.Product) {
		askByEth1(t, n, p)
		shell(script)(t, n, p)
	}
}

func askByEth1(t *testing.T, n *topology.TwoNIC, _ *product.Product) {
	for _, f := range traffic.Families {
		traffic.Ask(t, traffic.NewConversation(t, traffic.TCP, n.ClientEth0, n.Server.Eth1.Address(f)))
	}
}

// takeOff has what looks at replies be gone, which explain sees.
func takeOff(t *testing.T, n *topology.TwoNIC, p *product.Product) {
	host.Shell(t, n.Server.Host, "rm "+p.PinDir+"/links/*-egress")
	e := p.Explain("--peer", "10.9.0.100", "--self", "10.2.0.100", "--interface", "eth1")
	if e.Verdict != "fallback" || product.OrEmpty(e.Reason) != "not_managed" {
		t.Errorf("%s", e)
	}
}

// silence has eth0's router answer no more, and the server find that out.
func silence(t *testing.T, n *topology.TwoNIC, p *product.Product) {
	host.Nft(t, n.Production.Host, "table arp deaf { chain in { type filter hook input priority 0; drop; }; }")
	host.Shell(t, n.Server.Host, "ip neigh flush dev eth0")
	await.Eventually(t, "the gateway is silent", func() error {
		for _, g := range p.Status().Interface("eth0").Gateways {
			if g.State == "held" || g.State == "failed" {
				return nil
			}
		}
		return fmt.Errorf("%+v", p.Status().Interface("eth0").Gateways)
	})
}

// TestFirstLines has hosts be in bad states, one by one: no command is glad then, and none says another thing than doctor.
func TestFirstLines(t *testing.T) {
	for _, bad := range badHosts {
		n, p := server.New(t)
		d := p.Start("--config", product.WriteConfig(t, product.SmallTables+bad.config))
		for _, state := range bad.states {
			t.Run(state.name, func(t *testing.T) {
				if state.name == noDaemon {
					d.Kill()
				}
				if state.begin != nil {
					state.begin(t, n, p)
				}
				state.wantFirst(t, p.In(t))
			})
		}
	}
}

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
