// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"fmt"
	"net/netip"
	"testing"

	"replypath/test/await"
	"replypath/test/host"
	"replypath/test/product"
	"replypath/test/topology"
	"replypath/test/traffic"
	"replypath/test/wire"
)

const otherPort = 8007

// question is one that the client may ask of the server's eth1. Both have two addresses, and the server has two ports.
type question struct {
	kind                  traffic.Kind
	f                     topology.Family
	peer2, self2, onOther bool // the second address of either, the second port
}

func (q question) String() string {
	return fmt.Sprintf("%s/%s, second peer %t, second self %t, other port %t", q.f, q.kind, q.peer2, q.self2, q.onOther)
}

// questions are all of them.
func questions() (all []question) {
	for _, f := range traffic.Families {
		for _, kind := range traffic.Kinds {
			for i := range 8 {
				q := question{kind, f, i&1 != 0, i&2 != 0, i&4 != 0}
				if kind != traffic.Ping || !q.onOther {
					all = append(all, q)
				}
			}
		}
	}
	return all
}

// address is the first or the second of an interface's.
func address(nic *topology.Interface, f topology.Family, second bool) netip.Addr {
	if second {
		return nic.Address(f).Next()
	}
	return nic.Address(f)
}

// conversation prepares to ask the question.
func (q question) conversation(t *testing.T, n *topology.TwoNIC) *traffic.Conversation {
	t.Helper()
	client := *n.ClientEth0
	peer := address(&client, q.f, q.peer2)
	client.Addresses = []netip.Prefix{netip.PrefixFrom(peer, peer.BitLen())}
	c := traffic.NewConversation(t, q.kind, &client, address(n.Server.Eth1, q.f, q.self2))
	if q.onOther {
		c.Self = netip.AddrPortFrom(c.Self.Addr(), otherPort)
	}
	return c
}

// withSecond gives the client and the server's eth1 their second addresses, and the server its second port.
func withSecond(t *testing.T, n *topology.TwoNIC) {
	t.Helper()
	for _, f := range traffic.Families {
		for _, nic := range []*topology.Interface{n.ClientEth0, n.Server.Eth1} {
			more := address(nic, f, true)
			await.Must(t, nic.AddAddress(netip.PrefixFrom(more, more.BitLen())))
			await.Must(t, nic.WaitReady(await.Within(t, await.AnswerTime)))
		}
		traffic.Serve(t, n.Server.Host, address(n.Server.Eth1, f, true))
		for _, second := range []bool{false, true} {
			traffic.ServeAt(t, n.Server.Host, netip.AddrPortFrom(address(n.Server.Eth1, f, second), otherPort))
		}
	}
}

// exclusions are lists of the configuration, and which questions they are about.
var exclusions = map[string]struct {
	list string
	is   func(question) bool
}{
	"peers": {
		`[10.9.0.101/32, "2001:db8:9::101"]`,
		func(q question) bool { return q.peer2 },
	},
	"a network of peers": {
		`[10.9.0.0/24]`,
		func(q question) bool { return q.f == topology.IPv4 },
	},
	"own addresses": {
		`[{self: 10.2.0.101}, {self: "2001:db8:2::101/128"}]`,
		func(q question) bool { return q.self2 },
	},
	"a port": {
		`[{protocol: udp, self_port: 8007}]`,
		func(q question) bool { return q.kind == traffic.UDP && q.onOther },
	},
	"a protocol": {
		`[{protocol: tcp}, {protocol: icmpv6}]`,
		func(q question) bool { return q.kind == traffic.TCP || q.kind == traffic.Ping && q.f == topology.IPv6 },
	},
	"all of it": {
		`[{peer: 10.9.0.101/32, self: 10.2.0.100, protocol: tcp, self_port: 8007}]`,
		func(q question) bool {
			return q.f == topology.IPv4 && q.kind == traffic.TCP && q.peer2 && !q.self2 && q.onOther
		},
	},
}

// TestRouted has the configuration exclude what the client asks, and the administrator forbid the way to the client.
func TestRouted(t *testing.T) {
	n := traffic.NewTwoNIC(t, topology.TwoNICOptions{Policy: topology.AnySource})
	withSecond(t, n)
	config := product.WriteConfig(t, "{}\n")
	d := product.On(t, n.Server.Host).Start("--config", config)
	t.Run("forbidden", func(t *testing.T) { testForbiddenRoute(t, n) })
	t.Run("excluded", func(t *testing.T) { testExclude(t, n, d, config) })
}

// testExclude asks all questions under each list: what is excluded goes as routed, by eth0, all else by eth1. The
// daemon reads one list after the other; flows that have begun before an exclusion are not moved any more either.
func testExclude(t *testing.T, n *topology.TwoNIC, d *product.Daemon, config string) {
	begun := make(map[question]*traffic.Conversation)
	for _, q := range questions() {
		begun[q] = q.conversation(t, n)
		traffic.Ask(t, begun[q])
	}
	for name, e := range exclusions {
		t.Run(name, func(t *testing.T) {
			reload(t, d, config, "exclude: "+e.list+"\n")
			wires := wire.Tap(t, n.Server)
			for q, old := range begun {
				for which, c := range map[string]*traffic.Conversation{"new": q.conversation(t, n), "begun before": old} {
					traffic.Ask(t, c)
					wires.Want(!e.is(q), which+" "+q.String(), c.Answers())
				}
			}
		})
	}
}

// testForbiddenRoute has the administrator forbid the way to the client: nothing leaves for it by any NIC, neither
// answers to new questions nor those of a conversation that goes on, until the route is taken away.
func testForbiddenRoute(t *testing.T, n *topology.TwoNIC) {
	nics := []*topology.Interface{n.Server.Eth1, n.Server.Eth0}
	for _, kind := range []string{"prohibit", "unreachable", "blackhole"} {
		for _, f := range traffic.Families {
			t.Run(kind+"/"+f.String(), func(t *testing.T) {
				ofEachKind := func() (all []*traffic.Conversation) {
					for _, k := range traffic.Kinds {
						all = append(all, traffic.NewConversation(t, k, n.ClientEth0, n.Server.Eth1.Address(f)))
					}
					return all
				}
				begun := ofEachKind()
				for _, c := range begun {
					traffic.Ask(t, c)
				}
				route := fmt.Sprintf("%s %s", kind, whereTheyAre[f])
				host.Shell(t, n.Server.Host, "ip route add "+route)
				for _, c := range append(begun, ofEachKind()...) {
					wantNoAnswer(t, c, nics...)
				}
				host.Shell(t, n.Server.Host, "ip route del "+route)
				for _, c := range ofEachKind() {
					wantAnswers(t, n.Server, c, true)
				}
			})
		}
	}
}
