// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"fmt"
	"net/netip"
	"os"
	"testing"

	"replypath/test/harness"
	"replypath/test/topology"
)

// excluded is a server with replypath that leaves some flows alone; answers arrive
// whichever way they go. The client and the server's eth1 have two addresses each,
// and the server has two ports.
type excluded struct {
	*topology.TwoNIC
	byEth0, byEth1 exit
}

const otherPort = 8007

func newExcluded(t *testing.T) excluded {
	t.Helper()
	n := harness.NewTwoNIC(t, topology.TwoNICOptions{Policy: topology.AnySource})
	nics := []*topology.Interface{n.Server.Eth0, n.Server.Eth1}
	x := excluded{n, exit{nics, nics[0], nics[0].Peer().MAC}, exit{nics, nics[1], nics[1].Peer().MAC}}
	for _, f := range harness.Families {
		for _, nic := range []*topology.Interface{n.ClientEth0, n.Server.Eth1} {
			more := x.address(nic, f, true)
			harness.Must(t, nic.AddAddress(netip.PrefixFrom(more, more.BitLen())))
		}
		more := x.address(n.Server.Eth1, f, true)
		harness.Serve(t, n.Server.Host, more)
		for _, address := range []netip.Addr{n.Server.Eth1.Address(f), more} {
			harness.ServeAt(t, n.Server.Host, netip.AddrPortFrom(address, otherPort))
		}
		harness.Must(t, n.ClientEth0.WaitReady(harness.Within(t, harness.AnswerTime)))
		harness.Must(t, n.Server.Eth1.WaitReady(harness.Within(t, harness.AnswerTime)))
	}
	return x
}

// address is the first or the second of an interface's.
func (excluded) address(nic *topology.Interface, f topology.Family, second bool) netip.Addr {
	if second {
		return nic.Address(f).Next()
	}
	return nic.Address(f)
}

// question is one that the client may ask.
type question struct {
	kind                  harness.Kind
	f                     topology.Family
	peer2, self2, onOther bool // the second address of either, the second port
}

func (q question) String() string {
	return fmt.Sprintf("%s/%s, second peer %t, second self %t, other port %t", q.f, q.kind, q.peer2, q.self2, q.onOther)
}

// questions are all of them.
func questions() (all []question) {
	for _, f := range harness.Families {
		for _, kind := range harness.Kinds {
			for i := range 8 {
				q := question{kind, f, i&1 != 0, i&2 != 0, i&4 != 0}
				if kind != harness.Ping || !q.onOther {
					all = append(all, q)
				}
			}
		}
	}
	return all
}

// conversation prepares to ask the question.
func (x excluded) conversation(t *testing.T, q question) *harness.Conversation {
	t.Helper()
	client := *x.ClientEth0
	peer := x.address(&client, q.f, q.peer2)
	client.Addresses = []netip.Prefix{netip.PrefixFrom(peer, peer.BitLen())}
	c := harness.NewConversation(t, q.kind, &client, x.address(x.Server.Eth1, q.f, q.self2))
	if q.onOther {
		c.Self = netip.AddrPortFrom(c.Self.Addr(), otherPort)
	}
	return c
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
		func(q question) bool { return q.kind == harness.UDP && q.onOther },
	},
	"a protocol": {
		`[{protocol: tcp}, {protocol: icmpv6}]`,
		func(q question) bool { return q.kind == harness.TCP || q.kind == harness.Ping && q.f == topology.IPv6 },
	},
	"all of it": {
		`[{peer: 10.9.0.101/32, self: 10.2.0.100, protocol: tcp, self_port: 8007}]`,
		func(q question) bool {
			return q.f == topology.IPv4 && q.kind == harness.TCP && q.peer2 && !q.self2 && q.onOther
		},
	},
}

// TestExclude asks all questions under each list: what is excluded goes as routed,
// by eth0, all else by eth1. The daemon reads one list after the other; flows that
// have begun before an exclusion are not moved any more either.
func TestExclude(t *testing.T) {
	x := newExcluded(t)
	config := harness.WriteConfig(t, "{}\n")
	d := harness.On(t, x.Server.Host).Start("--config", config)
	begun := make(map[question]*harness.Conversation)
	for _, q := range questions() {
		begun[q] = x.conversation(t, q)
		harness.Ask(t, begun[q])
	}
	for name, e := range exclusions {
		t.Run(name, func(t *testing.T) {
			harness.Must(t, os.WriteFile(config, []byte("exclude: "+e.list+"\n"), 0o600))
			d.Reload()
			exits := harness.TapAll(t, x.byEth0.nics...)
			for q, old := range begun {
				by := x.byEth1
				if e.is(q) {
					by = x.byEth0
				}
				for which, c := range map[string]*harness.Conversation{"new": x.conversation(t, q), "begun before": old} {
					harness.Ask(t, c)
					by.want(exits, which+" "+q.String(), c.Answers())
				}
			}
		})
	}
}
