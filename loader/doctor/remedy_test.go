// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"net/netip"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"replypath/loader/config"
	"replypath/loader/discover"
	"replypath/loader/doctor/finding"
	"replypath/loader/doctor/snapshot"
	"replypath/loader/flows"
	"replypath/loader/netfilter"
	"replypath/loader/nexthop"
	"replypath/loader/sockets"
	"replypath/loader/status"
	"replypath/test/await"
	"replypath/test/testhost"
)

// problems are hosts that each check has to warn of: one for each way in which it does.
var wrong = map[string][]func(*snapshot.Host){
	"addresses": {func(h *snapshot.Host) {
		h.OwnWays = []snapshot.OwnWay{{Address: netip.MustParsePrefix("10.4.0.100/24"), On: "eth1", By: "eth0"}}
	}, func(h *snapshot.Host) {
		h.Attached, h.OwnWays = true, []snapshot.OwnWay{{Address: netip.MustParsePrefix("10.4.0.100/24"), On: "eth1", Refused: true}}
	}},
	"managed": {func(h *snapshot.Host) { h.Interfaces = nil }, func(h *snapshot.Host) {
		h.Interfaces, h.Unmanaged = nil, []discover.Unmanaged{{Name: "eth0", Reason: "no global address"}}
	}},
	"attached":      {func(h *snapshot.Host) { h.Attached = true }},
	"pin-directory": testhost.PlacesToWarnOf,
	"btf":           {func(h *snapshot.Host) { h.Start.BTF = errors.New("the kernel has no BTF") }},
	"kernel":        testhost.KernelsToWarnOf,
	"capabilities": {func(h *snapshot.Host) {
		h.Start.Rights = []snapshot.Right{{Name: "CAP_BPF", Purpose: "to load programs"}}
	}},
	"configuration":     testhost.ConfigurationsToWarnOf,
	"missing-interface": {testhost.Naming("eht1"), testhost.Naming("wan"), testhost.Flagged("eht1"), testhost.Flagged("wan")},
	"wrong-way":         testhost.WaysToWarnOf(),
	"rp-filter":         {testhost.Set(map[string]int{"net.ipv4.conf.all.rp_filter": 1}), testhost.Set(map[string]int{"net.ipv4.conf.eth1.rp_filter": 1})},
	"reverse-path-rules": {
		inChain("prerouting", netfilter.Rule{ReversePath: true, Refuses: true}), inChain("prerouting", netfilter.Rule{ReversePath: true}),
	},
	"default-route": {
		withoutRoutes, func(h *snapshot.Host) { withoutRoutes(h); h.Gateways = nil },
		func(h *snapshot.Host) { withoutRoutes(h); h.Gateways, h.Attached = nil, true },
		func(h *snapshot.Host) { withoutRoutes(h); h.Gateways, h.Config.FallbackRoute = nil, false },
		func(h *snapshot.Host) { h.Routes[0] = testhost.Refusing(unix.RTN_BLACKHOLE, "0.0.0.0/0") },
		func(h *snapshot.Host) {
			h.Devices = append(h.Devices, snapshot.Device{Index: 9, Name: discover.OwnDevice})
			h.Routes, h.Gateways = []snapshot.Route{testhost.Via("", 9)}, nil
		},
	},
	"own-gateway": {
		testhost.Route(testhost.Via("10.4.0.100", testhost.Eth1)),
		func(h *snapshot.Host) {
			h.Interfaces[1].Settings.Gateways = []netip.Addr{testhost.Address("10.4.0.100")}
		},
	},
	"gateway": {
		func(h *snapshot.Host) { h.Gateways[1].State = nexthop.StateFailed }, func(h *snapshot.Host) { h.Gateways[0].State = nexthop.StateFailed },
		func(h *snapshot.Host) { h.Gateways[1].State, h.Asked = nexthop.StateProbe, true },
	},
	"arp-ignore":   {testhost.SameSubnet, func(h *snapshot.Host) { testhost.AddVirtual(h, "10.3.0.5") }},
	"arp-announce": {testhost.SameSubnet},
	"translated-address": {func(h *snapshot.Host) {
		h.Translations = []snapshot.Translation{{Address: testhost.Address("198.51.100.7"), Target: testhost.Address("10.17.0.100"), Count: 3}}
	}},
	"answers-to-lo": {func(h *snapshot.Host) {
		inChain("output", netfilter.Rule{Gives: []uint32{1}})(h)
		r := testhost.Via("", 1)
		r.Type, r.Table = unix.RTN_LOCAL, 100
		h.Routes = append(h.Routes, r)
		h.Rules = append(h.Rules, snapshot.Rule{Family: unix.AF_INET, Mark: 1, Mask: snapshot.AllBits, Table: 100})
	}},
	"unknown-gateway": {func(h *snapshot.Host) {
		h.Gateways = h.Gateways[:1]
		h.Flows = []flows.Flow{{Peer: "10.60.0.1", Interface: new("eth1"), NextHopMAC: new(testhost.BalancerMAC)}}
	}},
	"last-hop": {testhost.ThroughBalancer, func(h *snapshot.Host) { h.FlowError = "made by another version" }},
	"needless-rules": {
		testhost.And(testhost.Enforces, testhost.Rule(snapshot.Rule{Priority: 5, Src: testhost.Prefix("10.4.0.100/32"), Table: 100})),
	},
	"rule-never-matches": {
		testhost.Rule(snapshot.Rule{Priority: 8, Src: testhost.Prefix("10.4.0.100/32"), IIF: "eth1", Table: 100}),
	},
	"udp-connect": {connectedTo("iperf3", false), connectedTo("", false), connectedTo("iperf3", true), connectedTo("", true)},
	"mtu":         {func(h *snapshot.Host) { h.Interfaces[0].MTU = 9000 }, func(h *snapshot.Host) { h.Interfaces[1].MTU = 1400 }},
	"tc-programs": {
		func(h *snapshot.Host) {
			h.Hooks = []snapshot.Hook{testhost.Hook(testhost.Eth1, false, true, "theirs", false), testhost.Hook(testhost.Eth1, false, true, "replypath_x", true)}
		},
		func(h *snapshot.Host) {
			h.Hooks = []snapshot.Hook{testhost.Hook(testhost.Eth1, true, false, "theirs", false)}
		},
	},
	"facts":      {func(h *snapshot.Host) { h.Failed = map[string]string{snapshot.PartFlows: "gone"} }},
	"daemon":     {testhost.Does(func(s *status.Status) { s.Errors = []string{"eth9 is not there yet"} })},
	"trial":      {testhost.Does(func(s *status.Status) { s.TrialEnded = new(time.Time) })},
	"flow-table": {testhost.Does(func(s *status.Status) { s.Counted.NotEntered = 1 })},
	"link":       {func(h *snapshot.Host) { h.Interfaces[1].Up = false }},
	"no-gateway": {func(h *snapshot.Host) { h.Gateways, h.Interfaces[0].Settings.NextHop = nil, config.NextHopGateway }},
	"outgoing-interface-rules": {
		inChain("output", netfilter.Rule{OutNames: []string{"eth1"}}), inChain("output", netfilter.Rule{OutUnknown: true}),
		decidesBy("filter", "output", "eth0", &expr.Reject{}),
	},
	"masquerade":      {decidesBy("nat", "postrouting", "eth0", &expr.Masq{})},
	"netdev-egress":   {testhost.Chains(netfilter.Chain{Family: "netdev", Table: "t", Name: "out", Hooks: []string{"egress"}, Devices: []string{"eth1"}})},
	"legacy-iptables": {func(h *snapshot.Host) { h.Firewall.Legacy = []string{"ip filter"} }},
	"xdp":             {func(h *snapshot.Host) { h.Devices[2].XDP = true }},
}

func withoutRoutes(h *snapshot.Host) { h.Routes = nil }

func inChain(at string, r netfilter.Rule) func(*snapshot.Host) {
	r.Handle = 4
	return testhost.Chains(netfilter.Chain{Family: "inet", Table: "t", Name: "c", Type: "filter", Hooks: []string{at}, Rules: []netfilter.Rule{r}})
}

// decidesBy has a chain do something with what leaves by an interface.
func decidesBy(kind, at, name string, does expr.Any) func(*snapshot.Host) {
	chains := testhost.Chains(netfilter.Chain{
		Family: "inet", Table: "t", Name: "c", Type: kind, Hooks: []string{at}, Policy: "accept",
		Rules: []netfilter.Rule{{Handle: 4, Expressions: []expr.Any{
			&expr.Meta{Key: expr.MetaKeyOIFNAME, Register: 1}, &expr.Cmp{Register: 1, Data: append([]byte(name), 0)}, does,
		}}},
	})
	return testhost.And(chains, func(h *snapshot.Host) {
		h.OwnWays = []snapshot.OwnWay{{Address: netip.MustParsePrefix("10.4.0.100/24"), On: "eth1", By: "eth0", Device: testhost.Eth0}}
	})
}

// connectedTo has a UDP socket that answers from the wrong address, or might.
func connectedTo(process string, isSuspicious bool) func(*snapshot.Host) {
	at := netip.MustParseAddrPort
	return func(h *snapshot.Host) {
		h.Sockets = []sockets.Socket{{Local: at("10.3.0.100:5201"), Remote: at("10.1.0.100:4000")}, {Local: at("0.0.0.0:5201")}}
		h.ProcessOf = func(*sockets.Socket) string { return process }
		if !isSuspicious {
			h.Flows = []flows.Flow{{Protocol: "udp", Peer: "10.1.0.100", PeerPort: 4000, Self: "10.4.0.100", SelfPort: 5201}}
		}
	}
}

// TestEveryProblemHasARemedy: whatever a check warns of, it says what mends it and takes no traffic away, or where to
// look; and what --fix sets mends.
func TestEveryProblemHasARemedy(t *testing.T) {
	for _, c := range known {
		if c.name == "loopback-address" || c.name == "unnamed-tunnel" {
			continue // a choice to be named, not a problem
		}
		if len(wrong[c.name]) == 0 {
			t.Errorf("no host has a problem that %s finds", c.name)
		}
		for n, change := range wrong[c.name] {
			h := testhost.New()
			change(h)
			all := Judge(h)
			testhost.WantForm(t, all)
			found := remainingOf(all, c.name)
			if len(found) == 0 {
				t.Errorf("%s has nothing to warn of on host %d", c.name, n)
			}
			for _, f := range found {
				wantShell(t, f)
			}
			wantMended(t, h, c.name)
		}
	}
}

// remainingOf returns what is wrong by a check.
func remainingOf(all []Finding, check string) []Finding {
	var found []Finding
	for _, f := range all {
		if f.Check == check && f.Severity != OK {
			found = append(found, f)
		}
	}
	return found
}

// wantShell wants commands that the shell can read, or a change of the configuration.
func wantShell(t *testing.T, f Finding) {
	t.Helper()
	for _, command := range []string{finding.OrEmpty(f.Fix), finding.OrEmpty(f.Inspect)} {
		if strings.Contains(command, " in /etc/replypath/replypath.yaml, then systemctl reload replypath") {
			continue
		}
		if output, err := exec.Command("sh", "-nc", command).CombinedOutput(); err != nil {
			t.Errorf("%s: %q: %v\n%s", f.Check, command, err, output)
		}
	}
}

// wantMended does what --fix does to a snapshot, and wants these findings gone.
func wantMended(t *testing.T, h *snapshot.Host, check string) {
	t.Helper()
	for _, f := range remainingOf(Judge(h), check) {
		if !f.Automatic {
			return
		}
		value, err := strconv.Atoi(f.Sysctl.Value)
		await.Must(t, err)
		h.Settings[f.Sysctl.Key] = value
	}
	if found := remainingOf(Judge(h), check); len(found) > 0 {
		t.Errorf("still there after --fix: %q", testhost.Lines(found))
	}
}

// TestConstructors: a finding is made by the constructors alone, and none that is a problem with nothing to say of what
// to do. Its fix is made of replypath's own.
func TestConstructors(t *testing.T) {
	names, err := filepath.Glob("*/*.go")
	if err != nil {
		t.Fatal(err)
	}
	files, calls := token.NewFileSet(), 0
	for _, name := range names {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(files, name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.CompositeLit:
				if isNamed(n.Type, "Finding") && len(n.Elts) > 0 && name != "finding/finding.go" {
					t.Errorf("%s: a finding that no constructor has made", files.Position(n.Pos()))
				}
			case *ast.CallExpr:
				if !isNamed(n.Fun, "Problem") && !isNamed(n.Fun, "Seen") {
					break
				}
				calls++
				last, ok := n.Args[len(n.Args)-1].(*ast.BasicLit)
				if ok && last.Value == `""` {
					t.Errorf("%s: a problem without a remedy", files.Position(n.Pos()))
				}
				if isNamed(n.Fun, "Problem") && !isOwn(n.Args[len(n.Args)-1]) && name != "finding/finding.go" {
					t.Errorf("%s: a fix that is none of replypath's own", files.Position(n.Pos()))
				}
			}
			return true
		})
	}
	if calls == 0 {
		t.Error("no call was looked at")
	}
}

// isOwn tells an expression that calls what makes a fix of replypath's configuration or its commands.
func isOwn(e ast.Expr) bool {
	call, ok := e.(*ast.CallExpr)
	if !ok {
		return false
	}
	return slices.ContainsFunc([]string{"Configure", "ConfigureInterface", "UnconfigureGateway", "Start",
		"StartAgain", "Reload", "Rename", "Enforce", "Try", "mount", "runAtUsual"}, func(name string) bool { return isNamed(call.Fun, name) })
}

// isNamed tells an identifier, of this package or another.
func isNamed(e ast.Expr, name string) bool {
	if selector, ok := e.(*ast.SelectorExpr); ok {
		e = selector.Sel
	}
	identifier, ok := e.(*ast.Ident)
	return ok && identifier.Name == name
}
